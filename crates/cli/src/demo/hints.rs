//! What to try next: lines to copy into another terminal.

use std::net::SocketAddr;

use crate::demo::farm::{Farm, url};
use crate::demo::workload::{LARGE, SMALL};

/// Shell lines for this farm.
pub(crate) fn lines(farm: &Farm) -> Vec<String> {
    of(farm.api, farm.admin)
}

fn of(api: SocketAddr, admin: SocketAddr) -> Vec<String> {
    let (api, admin) = (url(api), url(admin));
    let chat = |model: &str, more: &str| {
        format!(
            "'{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}],\"max_tokens\":32{more}}}'"
        )
    };
    vec![
        "# which models there are".to_owned(),
        format!("curl -s {api}/v1/models"),
        "# one answer; the headers say where it came from".to_owned(),
        format!("curl -si {api}/v1/chat/completions -d {}", chat(SMALL, "")),
        "# the same, streamed".to_owned(),
        format!("curl -sN {api}/v1/chat/completions -d {}", chat(LARGE, ",\"stream\":true")),
        "# the farm: nodes, GPUs, endpoints".to_owned(),
        format!("aya status --admin {admin}"),
        format!("curl -s {admin}/api/v1/fleet"),
        "# the last decisions, and one of them in full".to_owned(),
        format!("aya decisions --admin {admin}"),
        format!("curl -s '{admin}/api/v1/decisions?limit=1'"),
        "# where would this go, and why? places nothing".to_owned(),
        format!("curl -s {admin}/api/v1/placements:explain -d {}", chat(SMALL, "")),
        "# take a node out of service, and back".to_owned(),
        format!("curl -sX POST {admin}/api/v1/nodes/hopper:drain"),
        format!("curl -sX POST {admin}/api/v1/nodes/hopper:undrain"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_json_and_every_line_names_the_farm() {
        let lines = of("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        for line in lines.iter().filter(|line| !line.starts_with('#')) {
            assert!(line.contains("http://127.0.0.1:"), "{line}");
            if let Some((_, body)) = line.split_once(" -d ") {
                serde_json::from_str::<serde_json::Value>(body.trim_matches('\'')).expect(line);
            }
        }
        assert!(lines.iter().any(|l| l.contains("http://127.0.0.1:2/api/v1/nodes/hopper:drain")));
    }
}
