//! How requests reach the engine: each over a connection of its own, plain or over TLS. bollard's requests go this way
//! too; what it has no types for, or must not see, is asked here as JSON. Must not know what is asked.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::{BollardRequest, Docker};
use bytes::Bytes;
use certdeploy_common::daemon::logging::causes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::address::{Address, TlsFiles};
use super::capped::{self, Capped};
use super::{DockerError, Engine};

/// The most bytes of one answer.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
/// The most bytes that are read of an answer that refuses.
const REFUSAL_LIMIT: usize = 16 * 1024;

/// Why a request did not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{}", causes(.0))]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("`{0}`: {1}")]
    File(String, String),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("`{0}` is no name that a certificate could be for")]
    Name(String),
}

/// A way to an engine.
#[derive(Clone)]
pub(super) struct Line {
    at: Address,
    host: HeaderValue,
    tls: Option<Arc<ClientConfig>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Line {
    /// Reads the TLS files, if there are any: anew each time, because they are renewed too.
    pub(super) fn new(engine: &Engine) -> Result<Self, LineError> {
        let host = HeaderValue::try_from(engine.at.authority()).map_err(hyper::http::Error::from)?;
        let tls = engine.tls.as_ref().map(config).transpose()?;
        Ok(Self { at: engine.at.clone(), host, tls: tls.map(Arc::new) })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, LineError> {
        let (host, port) = match &self.at {
            Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Tcp { host, port, .. } => (host, *port),
        };
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.clone()).map_err(|_| LineError::Name(host.clone()))?;
        Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
    }

    /// Sends one request over a new connection, which ends with the answer's body.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, LineError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        parts.headers.insert(HOST, self.host.clone());
        // The output of a command is read piece by piece, and may be long; everything else is kept in memory.
        let endless = parts.uri.path().ends_with("/start") && parts.uri.path().contains("/exec/");
        let limit = if endless { u64::MAX } else { capped::LIMIT };
        let stream = TokioIo::new(Capped::new(self.connect().await?, limit));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        // Ends with the answer's body; what goes wrong there is seen by whoever reads it.
        tokio::spawn(connection.with_upgrades());
        Ok(sender.send_request(Request::from_parts(parts, body)).await?)
    }

    /// bollard over this line; agrees on a version of the API. `limit` is for one answer to begin.
    pub(super) async fn docker(&self, limit: Duration) -> Result<Docker, bollard::errors::Error> {
        let line = self.clone();
        let transport = move |request: BollardRequest| {
            let line = line.clone();
            async move {
                let answer = line.send(request).await.map_err(|error| io::Error::other(error.to_string()))?;
                let fine = [StatusCode::NOT_MODIFIED, StatusCode::SWITCHING_PROTOCOLS];
                if answer.status().is_success() || fine.contains(&answer.status()) {
                    return Ok(answer);
                }
                // The library would read all of it.
                let (status_code, message) = refusal(answer).await;
                Err(bollard::errors::Error::DockerResponseServerError { status_code, message })
            }
        };
        // Whole seconds are all that the library takes. The address only fills a place: the line knows where it leads.
        let seconds = limit.as_secs().max(1);
        let version = bollard::API_DEFAULT_VERSION;
        Docker::connect_with_custom_transport(transport, Some("http://engine"), seconds, version)?
            .negotiate_version()
            .await
    }
}

fn config(files: &TlsFiles) -> Result<ClientConfig, LineError> {
    let fault =
        |path: &Path, error: &dyn std::fmt::Display| LineError::File(path.display().to_string(), error.to_string());
    let certificates = |path: &Path| {
        let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        match read {
            Ok(read) if read.is_empty() => Err(fault(path, &"holds no certificate")),
            read => read.map_err(|error| fault(path, &error)),
        }
    };
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(certificates(&files.ca)?);
    if taken == 0 {
        return Err(fault(&files.ca, &"holds no certificate that can be used"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((cert, key)) = &files.identity else { return Ok(builder.with_no_client_auth()) };
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, &error))?;
    builder.with_client_auth_cert(certificates(cert)?, secret).map_err(|error| fault(cert, &error))
}

/// The status and the words of an answer that refuses, as far as they are worth reading.
async fn refusal(answer: Response<Incoming>) -> (u16, String) {
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let room = REFUSAL_LIMIT.saturating_sub(read.len());
        let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
        read.extend(data.iter().take(room));
        if read.len() == REFUSAL_LIMIT {
            break;
        }
    }
    let said: Option<Value> = serde_json::from_slice(&read).ok();
    let message = said.as_ref().and_then(|said| said.get("message")?.as_str()).map(str::to_owned);
    (status, message.unwrap_or_else(|| String::from_utf8_lossy(&read).into_owned()))
}

/// A text as part of a URL's query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let piece = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(piece).collect()
}

/// The engine's API as JSON.
pub(super) struct Api {
    line: Line,
    docker: Docker,
    limit: Duration,
}

impl Api {
    /// Over a line whose version has been agreed on. `limit` is for each answer as a whole.
    pub(super) fn new(line: Line, docker: Docker, limit: Duration) -> Self {
        Self { line, docker, limit }
    }

    /// What the library has types for.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Asks for everything that the engine's filters let through. Not by the library: it logs whole answers, and in
    /// those are the environments of other people's services.
    pub(super) async fn list(&self, path: &str, filters: &Value) -> Result<Vec<Value>, DockerError> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let listed = self.get(&format!("{path}{separator}filters={}", encoded(&filters.to_string()))).await?;
        match listed {
            Value::Array(all) => Ok(all),
            Value::Null => Ok(Vec::new()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                Err(DockerError::Broken("its answer is no list".to_owned()))
            }
        }
    }

    /// Asks for something.
    pub(super) async fn get(&self, path: &str) -> Result<Value, DockerError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Sends something.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Value, DockerError> {
        self.call(Method::POST, path, body).await
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, DockerError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Value, DockerError> {
        let broken = |error: LineError| DockerError::broken(&error);
        let version = self.docker.client_version();
        let path = format!("/v{}.{}{path}", version.major_version, version.minor_version);
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| broken(error.into()))?;
        let answered = async {
            let answer = self.line.send(request).await.map_err(broken)?;
            if !answer.status().is_success() {
                let (status, message) = refusal(answer).await;
                return Err(DockerError::refused(status, &message));
            }
            let read = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            let bytes = read.map_err(|error| DockerError::broken(&error))?.to_bytes();
            if bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&bytes)
                .map_err(|error| DockerError::broken(&format_args!("its answer is no JSON: {error}")))
        };
        match tokio::time::timeout(self.limit, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(DockerError::Broken(format!("no whole answer within {} s", self.limit.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_survive_the_way_through_a_url() {
        assert_eq!(encoded(r#"{"name":["ü&x"]}"#), "%7B%22name%22%3A%5B%22%C3%BC%26x%22%5D%7D");
    }
}
