//! The web page: files that the build embedded (`build.rs`, from `web/dist`), served to anybody.
//!
//! The page itself holds nothing of the cluster; all that it shows it asks for like every other client. What is
//! served is a fixed table, so no path leads anywhere else. Files under `/assets/` carry a hash in their names and
//! may be kept for ever; the page that names them is asked for anew each time.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::answer::{Answer, Refused};
use crate::pki::hex;

/// One file of the page.
struct File {
    /// As in `assets/index-1a2b3c4d.js`.
    path: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    /// Compressed, if that is worth it.
    brotli: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/page_files.rs"));

/// Scripts, styles and connections from this host only; nothing inline; in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A name with a hash never means anything else.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

/// What a build without the page shows.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Kennel</title>\
    <h1>The web page was not built into this kenneld</h1>\
    <p>Everything else works: the <code>kennel</code> command, and the API under /v1.</p>\
    <p>In a clone of Kennel, <code>make build</code> builds the page and then kenneld with it.</p></html>";

pub async fn index(headers: HeaderMap) -> Response {
    match find("index.html") {
        Some(file) => serve(file, &headers, ASK_AGAIN),
        None => {
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
            guarded((kind, NOT_BUILT).into_response())
        }
    }
}

pub async fn icon(headers: HeaderMap) -> Answer<Response> {
    let file = find("favicon.svg").ok_or_else(|| no_such_file("favicon.svg"))?;
    Ok(serve(file, &headers, ASK_AGAIN))
}

pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Answer<Response> {
    let path = format!("assets/{name}");
    let file = find(&path).ok_or_else(|| no_such_file(&path))?;
    Ok(serve(file, &headers, FOR_EVER))
}

fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

fn no_such_file(path: &str) -> Refused {
    let instead = "begin at /: after an upgrade the page's parts have other names";
    let mut refused = Refused::not_found(&format!("serve {path}"), "file of the page", path);
    refused.0.instead = instead.to_owned();
    refused.0.detail = refused.0.refusal().to_string();
    refused
}

fn serve(file: &File, headers: &HeaderMap, keep: &'static str) -> Response {
    let tag = format!("\"{}\"", &hex(&Sha256::digest(file.plain))[..16]);
    let held = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let brotli = file.brotli.filter(|_| accepted.is_some_and(takes_brotli));
    let mut response = match (held, brotli) {
        (true, _) => StatusCode::NOT_MODIFIED.into_response(),
        (false, Some(bytes)) => {
            ([(header::CONTENT_ENCODING, HeaderValue::from_static("br"))], bytes).into_response()
        }
        (false, None) => file.plain.into_response(),
    };
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        fields.insert(header::ETAG, tag);
    }
    guarded(response)
}

/// `br` with a weight of 0 would mean no; nobody sends that.
fn takes_brotli(accepted: &str) -> bool {
    accepted.split(',').any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "br"))
}

fn guarded(mut response: Response) -> Response {
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    fields.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    fields.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}
