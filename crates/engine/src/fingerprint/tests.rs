//! Ports of all sorts, as pages that they answer.

use super::*;

const OTHER: &[u8] = b"{\"detail\":\"Not Found\"}";

/// The body of a recorded response.
fn body_of(raw: &str) -> &[u8] {
    raw.split_once("\r\n\r\n").map_or(raw, |(_, body)| body).as_bytes()
}

/// Asks a port with these pages, and a 404 for all others, until the verdict; and which pages that took.
fn ask(pages: &[(&'static str, u16, &[u8])]) -> (Result<EngineKind, NoEngine>, Vec<&'static str>) {
    let mut heard: Vec<Heard<'_>> = Vec::new();
    loop {
        match fingerprint(&heard) {
            NextProbe::Done(verdict) => return (verdict, heard.iter().map(|page| page.path).collect()),
            NextProbe::Ask(path) => {
                let found = pages.iter().find(|(known, ..)| *known == path);
                let (status, body) = found.map_or((404, OTHER), |(_, status, body)| (*status, *body));
                assert!(heard.iter().all(|page| page.path != path), "{path} is asked twice");
                heard.push(Heard { path, status, body });
            }
        }
    }
}

#[track_caller]
fn check(
    name: &str,
    pages: &[(&'static str, u16, &[u8])],
    expect: Result<EngineKind, NoEngine>,
    asked: &[&str],
) {
    assert_eq!(ask(pages), (expect, asked.to_vec()), "{name}");
}

macro_rules! fixture {
    ($path:literal) => {
        body_of(include_str!(concat!("../../../../fixtures/engines/", $path)))
    };
}

fn owned_by(owner: &str) -> Vec<u8> {
    format!("{{\"object\":\"list\",\"data\":[{{\"id\":\"m\",\"owned_by\":\"{owner}\"}}]}}").into_bytes()
}

#[test]
fn the_owner_of_the_models_names_the_kind() {
    let one = [MODELS];
    check("vLLM", &[(MODELS, 200, fixture!("vllm/models.http"))], Ok(EngineKind::Vllm), &one);
    check("SGLang", &[(MODELS, 200, fixture!("sglang/models.json"))], Ok(EngineKind::Sglang), &one);
    check("llama.cpp", &[(MODELS, 200, fixture!("llama.cpp/models.http"))], Ok(EngineKind::LlamaCpp), &one);
    check("TensorRT-LLM", &[(MODELS, 200, &owned_by("tensorrt_llm"))], Ok(EngineKind::TrtLlm), &one);
    check("Triton", &[(MODELS, 200, &owned_by("Triton Inference Server"))], Ok(EngineKind::Triton), &one);
    check("simulated", &[(MODELS, 200, &owned_by("aya-sim"))], Ok(EngineKind::Simulated), &one);
    check("a scheduler", &[(MODELS, 200, &owned_by("aya"))], Err(NoEngine::Scheduler), &one);
}

#[test]
fn a_page_that_one_kind_alone_has_decides_where_the_owner_is_a_publisher() {
    let version = ("/api/version", 200, &b"{\"version\":\"0.12.0\"}"[..]);
    let ollama = [(MODELS, 200, fixture!("ollama/models.json")), version];
    check("Ollama", &ollama, Ok(EngineKind::Ollama), &[MODELS, OLLAMA_VERSION]);
    let empty = [(MODELS, 200, &b"{\"object\":\"list\",\"data\":null}"[..]), version];
    check("Ollama without models", &empty, Ok(EngineKind::Ollama), &[MODELS, OLLAMA_VERSION]);
    let info = ("/info", 200, fixture!("tgi/info.json"));
    let own = b"{\"data\":[{\"id\":\"meta/llama\",\"owned_by\":\"meta/llama\"}]}";
    check("TGI", &[(MODELS, 200, own), info], Ok(EngineKind::Tgi), &[MODELS, TGI_INFO]);
    check("an older TGI", &[info], Ok(EngineKind::Tgi), &[MODELS, TGI_INFO]);
    let bare = [("/v2", 200, &b"{\"name\":\"triton\",\"version\":\"2.61.0\"}"[..])];
    check("a bare Triton", &bare, Err(NoEngine::NoOpenAiApi), &[MODELS, TGI_INFO, KSERVE]);
}

#[test]
fn what_is_no_engine_is_left_with_the_reason() {
    let all = [MODELS, OLLAMA_VERSION, TGI_INFO];
    let proxy = Some("openai".to_owned());
    check(
        "a proxy",
        &[(MODELS, 200, &owned_by("openai"))],
        Err(NoEngine::UnknownKind { owned_by: proxy }),
        &all,
    );
    let long = Some("x".repeat(WORD_MAX));
    check(
        "a long word",
        &[(MODELS, 200, &owned_by(&"x".repeat(999)))],
        Err(NoEngine::UnknownKind { owned_by: long }),
        &all,
    );
    check(
        "no owner",
        &[(MODELS, 200, b"{\"data\":[{}]}")],
        Err(NoEngine::UnknownKind { owned_by: None }),
        &all,
    );
    let other = [MODELS, TGI_INFO, KSERVE];
    check("some server", &[], Err(NoEngine::Other { status: 404 }), &other);
    check("a web page", &[(MODELS, 200, b"<html>")], Err(NoEngine::Other { status: 200 }), &other);
    check("not a list", &[(MODELS, 200, b"{\"data\":7}")], Err(NoEngine::Other { status: 200 }), &other);
    check("locked", &[(MODELS, 401, b"")], Err(NoEngine::WantsKey), &[MODELS]);
}

#[test]
fn an_engine_that_is_starting_is_known_or_asked_again() {
    let loading = b"{\"error\":{\"message\":\"Loading model\",\"type\":\"unavailable_error\",\"code\":503}}";
    check("llama.cpp loads", &[(MODELS, 503, loading)], Ok(EngineKind::LlamaCpp), &[MODELS]);
    let silent = Err(NoEngine::Silent("its list of models answers 503".to_owned()));
    check("another is not ready", &[(MODELS, 503, b"")], silent, &[MODELS]);
}

#[test]
fn no_page_that_changes_anything_is_ever_asked() {
    for path in [MODELS, TGI_INFO, OLLAMA_VERSION, KSERVE] {
        assert!(!path.contains("metrics") && !path.contains("health"), "{path}");
    }
}
