//! Listening sockets that the process was started with: systemd's socket activation, `sd_listen_fds(3)`.
//!
//! Not settings, but they come by the environment, which nobody else reads.

/// The first of them.
const FIRST: i32 = 3;
/// More than any scheduler has.
const SOCKETS_MAX: usize = 512;

/// A descriptor that was passed, and the name that it was given; empty: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedSocket {
    pub descriptor: i32,
    pub name: String,
}

/// The sockets that were passed to the process of this id; none if they are meant for another one.
#[must_use]
pub fn passed_sockets(pid: u32) -> Vec<PassedSocket> {
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    read(pid, variable)
}

fn read(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Vec<PassedSocket> {
    let is_ours = variable("LISTEN_PID").and_then(|id| id.parse().ok()) == Some(pid);
    let count: Option<usize> = variable("LISTEN_FDS").and_then(|count| count.parse().ok());
    let Some(count) = count.filter(|_| is_ours) else { return Vec::new() };
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    // Names are missing where systemd knows none.
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    (FIRST..)
        .zip(names)
        .take(count.min(SOCKETS_MAX))
        .map(|(descriptor, name)| PassedSocket { descriptor, name })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expect: &[(i32, &str)]) {
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let found = read(77, value);
        let found: Vec<_> = found.iter().map(|socket| (socket.descriptor, socket.name.as_str())).collect();
        assert_eq!(found, expect, "{variables:?}");
    }

    #[test]
    fn sockets_are_ours_if_they_were_passed_to_us() {
        check(&[], &[]);
        check(&[("LISTEN_FDS", "1")], &[]);
        check(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "78")], &[]);
        check(&[("LISTEN_FDS", "x"), ("LISTEN_PID", "77")], &[]);
        check(&[("LISTEN_FDS", "-1"), ("LISTEN_PID", "77")], &[]);
        check(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "77")], &[(3, ""), (4, "")]);
        check(
            &[("LISTEN_FDS", "2"), ("LISTEN_PID", "77"), ("LISTEN_FDNAMES", "api:grpc:more")],
            &[(3, "api"), (4, "grpc")],
        );
    }
}
