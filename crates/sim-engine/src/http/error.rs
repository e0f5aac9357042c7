//! Errors in vLLM's shape: one enum, one table to status, type and parameter.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::SubmitError;
use crate::inbox::Refused;

/// What a client did wrong, or what is wrong with the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ApiError {
    /// The body is not what the API takes.
    Invalid {
        param: Option<&'static str>,
        message: String,
    },
    /// Prompt, answer or both exceed a limit.
    TooLong {
        param: &'static str,
        message: String,
    },
    UnknownModel {
        model: String,
        known: String,
    },
    BodyTooLarge,
    /// The queue is full, or a fault says so.
    Busy,
    /// The engine has stopped.
    Dead,
}

const BUSY: &str = "The engine is currently busy and cannot accept new requests. Please try again later or on a \
                    different instance.";

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::TooLong { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel { .. } => StatusCode::NOT_FOUND,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Dead => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body, which is also the event that a stream carries.
    pub(super) fn to_json(&self) -> Value {
        let (kind, param, message) = match self {
            Self::Invalid { param, message } => ("Bad Request", *param, message.clone()),
            Self::TooLong { param, message } => ("BadRequestError", Some(*param), message.clone()),
            Self::UnknownModel { model, known } => {
                let message = format!("The model `{model}` does not exist. Valid aliases: {known}.");
                ("NotFoundError", Some("model"), message)
            }
            Self::BodyTooLarge => ("Request Entity Too Large", None, "The body is too large.".to_owned()),
            Self::Busy => ("Service Unavailable", None, BUSY.to_owned()),
            Self::Dead => ("InternalServerError", None, "The engine has stopped.".to_owned()),
        };
        json!({"error": {"message": message, "type": kind, "param": param, "code": self.status().as_u16()}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), axum::Json(self.to_json())).into_response()
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::ByEngine(SubmitError::QueueFull { .. }) => Self::Busy,
            Refused::ByEngine(error @ (SubmitError::TooLarge { .. } | SubmitError::EmptyPrompt)) => {
                Self::TooLong { param: "input_text", message: error.to_string() }
            }
            Refused::Stopped => Self::Dead,
        }
    }
}
