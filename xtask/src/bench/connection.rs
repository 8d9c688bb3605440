//! One kept-alive connection to a server.

use super::call::Call;
use super::side::Side;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authorization: String,
}

impl Connection {
    pub async fn open(side: &Side) -> Result<Self, String> {
        let stream = TcpStream::connect(side.address).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = rustls::pki_types::ServerName::from(side.address.ip());
        let stream =
            TlsConnector::from(side.tls.clone()).connect(name, stream).await.map_err(|e| e.to_string())?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender, authorization: format!("Bearer {}", side.token) })
    }

    /// Sends the `n`th request of the `connection`th connection; an answer that tells of a failure is an error.
    pub async fn send(
        &mut self,
        call: &Call,
        connection: usize,
        n: usize,
    ) -> Result<Response<Incoming>, String> {
        let (path, body) = (call.path(connection), call.body(connection, n));
        let request = Request::builder()
            .method(call.method)
            .uri(&path)
            .header(header::HOST, "127.0.0.1")
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, call.content_type)
            .header(header::ACCEPT, call.accept)
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        self.sender.ready().await.map_err(|e| e.to_string())?;
        let answer = self.sender.send_request(request).await.map_err(|e| e.to_string())?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let text = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Err(format!("{} {path}: {code} {}", call.method, String::from_utf8_lossy(&text)))
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, call: &Call, connection: usize, n: usize) -> Result<(), String> {
        let mut body = self.send(call, connection, n).await?.into_body();
        // A large answer is read and let go: keeping it would cost the client more than the server.
        while let Some(frame) = body.frame().await {
            frame.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    pub async fn get(&mut self, path: &str) -> Result<(), String> {
        self.call(&Call::get(path), 0, 0).await
    }

    /// Sends a JSON request and reads the whole answer.
    pub async fn json(&mut self, method: &'static str, path: &str, body: Bytes) -> Result<Bytes, String> {
        let answer = self.send(&Call::json(method, path, body), 0, 0).await?;
        Ok(answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes())
    }
}
