//! The API's requests, each turned into one [`Request`] of [`Control`]. Errors are `{"error": "a sentence"}`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{self, FromRequest, Path, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use firstmile_shared::{
    exit::{ExitCode, Failure},
    secret::Secret,
};
use qrcode::{EcLevel, QrCode, render::svg};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    control::{Control, LineInfo, Request},
    events::Event,
    lines::Line,
    status::Status,
};

type Answer = Result<Json<Value>, Problem>;

/// Why a request was not done, as a status and one sentence.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match failure.code {
            ExitCode::Usage => StatusCode::BAD_REQUEST,
            ExitCode::Refused => StatusCode::FORBIDDEN,
            ExitCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ExitCode::Ok | ExitCode::Failed | ExitCode::Io | ExitCode::Config => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, failure.message)
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// A JSON body whose refusal is an answer like any other.
pub(super) struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: extract::Request, state: &S) -> Result<Self, Problem> {
        let Json(body) = Json::<T>::from_request(request, state).await?;
        Ok(Self(body))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLine {
    name: String,
    #[serde(default)]
    key: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineChange {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Join {
    token: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leave {
    relay: String,
}

pub(super) async fn status(State(control): State<Control>) -> Json<Status> {
    Json(control.status())
}

pub(super) async fn lines(State(control): State<Control>) -> Answer {
    ask(&control, Request::Lines {}).await
}

pub(super) async fn line(
    State(control): State<Control>,
    Path(id): Path<u32>,
) -> Result<Json<LineInfo>, Problem> {
    let line = find(&control, id)?;
    Ok(Json(control.info(&line)))
}

pub(super) async fn add_line(
    State(control): State<Control>,
    Body(NewLine { name, key }): Body<NewLine>,
) -> Answer {
    ask(&control, Request::AddLine { name, key }).await
}

pub(super) async fn change_line(
    State(control): State<Control>,
    Path(id): Path<u32>,
    Body(change): Body<LineChange>,
) -> Answer {
    let name = find(&control, id)?.name;
    let mut answer = None;
    if !change.settings.is_empty() {
        let request = Request::SetLine {
            name: name.clone(),
            settings: change.settings.into_iter().collect(),
        };
        answer = Some(ask(&control, request).await?);
    }
    if let Some(enabled) = change.enabled {
        answer = Some(ask(&control, Request::EnableLine { name, enabled }).await?);
    }
    answer.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "there is nothing to change in it"))
}

pub(super) async fn remove_line(State(control): State<Control>, Path(id): Path<u32>) -> Answer {
    let name = find(&control, id)?.name;
    ask(&control, Request::RemoveLine { name }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    #[serde(default)]
    publisher: Option<u32>,
}

pub(super) async fn take_line(
    State(control): State<Control>,
    Path(id): Path<u32>,
    Body(Choice { publisher }): Body<Choice>,
) -> Answer {
    let name = find(&control, id)?.name;
    ask(&control, Request::TakeLine { name, publisher }).await
}

pub(super) async fn refuse_line(
    State(control): State<Control>,
    Path(id): Path<u32>,
    Body(Choice { publisher }): Body<Choice>,
) -> Answer {
    let name = find(&control, id)?.name;
    ask(&control, Request::RefuseLine { name, publisher }).await
}

pub(super) async fn resync_line(State(control): State<Control>, Path(id): Path<u32>) -> Answer {
    let name = find(&control, id)?.name;
    ask(&control, Request::ResyncLine { name }).await
}

pub(super) async fn events(State(control): State<Control>) -> Json<Vec<Event>> {
    Json(control.events())
}

pub(super) async fn join(
    State(control): State<Control>,
    Body(Join { token }): Body<Join>,
) -> Answer {
    ask(&control, Request::Join { token }).await
}

pub(super) async fn leave(
    State(control): State<Control>,
    Body(Leave { relay }): Body<Leave>,
) -> Answer {
    ask(&control, Request::Leave { relay }).await
}

/// The whole address of a line as a QR code: what a phone's encoder scans.
pub(super) async fn qr(
    State(control): State<Control>,
    Path(id): Path<u32>,
) -> Result<Response, Problem> {
    let line = find(&control, id)?;
    let Some(url) = control.info(&line).urls.into_iter().next() else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "the address is known once this connector has joined a relay",
        ));
    };
    let code = QrCode::with_error_correction_level(url.expose(), EcLevel::M)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let picture = code.render::<svg::Color>().min_dimensions(240, 240).build();
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response())
}

async fn ask(control: &Control, request: Request) -> Answer {
    Ok(Json(control.result(request).await?))
}

fn find(control: &Control, id: u32) -> Result<Line, Problem> {
    control
        .line(id)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no line {id}")))
}
