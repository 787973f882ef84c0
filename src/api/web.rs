//! gRPC-Web, for programs in browsers: calls over HTTP/1.1 or HTTP/2 whose trailers travel in the body, from
//! pages of the origins that the operator named.

use std::time::Duration;

use http::header::{HeaderName, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::layer::util::Stack;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::validate_request::{ValidateRequest, ValidateRequestHeaderLayer};

use crate::model::Origins;

/// What a page may read of an answer beside its body: where a call fails at once, its status is here.
const EXPOSED: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];
/// How long a browser may remember what it was allowed. None remembers it longer.
const MAX_AGE: Duration = Duration::from_hours(2);

/// Turns away what a browser sends for other pages. That it may not read the answer would not keep a page
/// that has become of this server's own address, by rebinding a name, from calling.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Origins);

impl<B> ValidateRequest<B> for Gate {
    type ResponseBody = Body;

    fn validate(&mut self, request: &mut Request<B>) -> Result<(), Response<Body>> {
        let Some(origin) = request.headers().get(ORIGIN) else { return Ok(()) };
        if self.0.allow(origin.as_bytes()) {
            return Ok(());
        }
        let text = format!("pages of {origin:?} may not call: web.origins does not name it\n");
        let mut refusal = Response::new(Body::new(http_body_util::Full::from(text)));
        *refusal.status_mut() = StatusCode::FORBIDDEN;
        Err(refusal)
    }
}

/// The gate, what browsers ask before they call, and the translation, from the outside to the inside.
type WebLayer = Stack<Stack<GrpcWebLayer, CorsLayer>, ValidateRequestHeaderLayer<Gate>>;

/// Lets pages of these origins call.
pub(crate) fn web_layer(origins: &Origins) -> WebLayer {
    let gate = ValidateRequestHeaderLayer::custom(Gate(origins.clone()));
    let origins = match origins {
        Origins::Any => AllowOrigin::any(),
        // An origin has no character that a header cannot have.
        Origins::Only(only) => AllowOrigin::list(only.iter().filter_map(|origin| origin.parse().ok())),
    };
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST])
        // A call's metadata are headers, which callers choose. No cookies: they would show who calls without
        // the page's doing.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE);
    Stack::new(Stack::new(GrpcWebLayer::new(), cors), gate)
}
