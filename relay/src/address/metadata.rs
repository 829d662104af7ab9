//! Asks a cloud's metadata service for the machine's public address, where the machine itself has a private one.
//!
//! The services are on link-local addresses that no router forwards; one that is not there costs [`PATIENCE`], and
//! all are asked at once. An answer counts only if it is a public address.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::is_public;

/// The public address, if a service knows one.
pub(super) async fn public_address() -> Option<IpAddr> {
    let link_local = SocketAddr::from(([169, 254, 169, 254], 80));
    let scaleway = SocketAddr::from(([169, 254, 42, 42], 80));
    let (plain, aws, google, scaleway) = tokio::join!(
        ask(link_local, DIGITALOCEAN, ""),
        ask_with_token(link_local),
        ask(link_local, GOOGLE, "Metadata-Flavor: Google\r\n"),
        ask(scaleway, SCALEWAY, ""),
    );
    [plain, aws, google, scaleway]
        .into_iter()
        .flatten()
        .find_map(|body| address(&body))
}

/// AWS gives a token first, to keep out what a web site could make a server fetch.
async fn ask_with_token(service: SocketAddr) -> Option<String> {
    let header = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
    let token = exchange(service, "PUT", "/latest/api/token", header).await?;
    let token = token.trim();
    let is_token = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
    if !is_token {
        return None;
    }
    ask(
        service,
        AWS,
        &format!("X-aws-ec2-metadata-token: {token}\r\n"),
    )
    .await
}

async fn ask(service: SocketAddr, path: &str, headers: &str) -> Option<String> {
    exchange(service, "GET", path, headers).await
}

/// One HTTP/1.0 request; the body of a 200, at most [`ANSWER_LEN_MAX`] bytes of it.
async fn exchange(service: SocketAddr, method: &str, path: &str, headers: &str) -> Option<String> {
    let talk = async {
        let mut stream = TcpStream::connect(service).await.ok()?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\n{headers}\r\n",
            service.ip()
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream
            .take(ANSWER_LEN_MAX)
            .read_to_end(&mut answer)
            .await
            .ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let is_ok = head.starts_with("HTTP/1.") && head.get(9..12) == Some("200");
        is_ok.then(|| body.to_owned())
    };
    time::timeout(PATIENCE, talk).await.ok()?
}

/// The first public address in an answer: alone on its line, or the value of Scaleway's `"address"`.
fn address(body: &str) -> Option<IpAddr> {
    let words = body.split(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | '{' | '}'));
    words
        .filter_map(|word| word.parse().ok())
        .find(|ip| is_public(*ip))
}

const DIGITALOCEAN: &str = "/metadata/v1/interfaces/public/0/ipv4/address";
const AWS: &str = "/latest/meta-data/public-ipv4";
const GOOGLE: &str =
    "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip";
const SCALEWAY: &str = "/conf?format=json";

/// The services answer within milliseconds where they are.
const PATIENCE: Duration = Duration::from_millis(700);

/// Scaleway's whole description of a machine is under 8 KiB.
const ANSWER_LEN_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_public_address_counts() {
        for (body, expected) in [
            ("51.15.1.2", Some("51.15.1.2")),
            ("51.15.1.2\n", Some("51.15.1.2")),
            ("10.0.0.4", None),
            ("<html>not found</html>", None),
            (
                r#"{"private_ip":"10.1.1.1","public_ip":{"address":"51.15.1.2","dynamic":false}}"#,
                Some("51.15.1.2"),
            ),
            ("", None),
        ] {
            assert_eq!(
                address(body),
                expected.map(|ip| ip.parse().unwrap()),
                "{body:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_service_is_asked_for_a_token_and_then_for_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = listener.local_addr().unwrap();
        let server = async {
            let mut requests = Vec::new();
            for answer in ["t0ken", "51.15.1.2"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let len = stream.read(&mut request).await.unwrap();
                requests.push(String::from_utf8_lossy(&request[..len]).into_owned());
                let answer = format!("HTTP/1.0 200 OK\r\n\r\n{answer}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        };
        let (body, requests) = tokio::join!(ask_with_token(service), server);
        assert_eq!(body.as_deref(), Some("51.15.1.2"));
        assert!(requests[0].starts_with("PUT /latest/api/token "));
        assert!(requests[1].contains("X-aws-ec2-metadata-token: t0ken\r\n"));
    }

    #[tokio::test]
    async fn a_service_that_refuses_or_is_not_there_knows_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.0 404 Not Found\r\n\r\n51.15.1.2";
            stream.write_all(answer).await.unwrap();
        };
        let (body, ()) = tokio::join!(ask(service, AWS, ""), server);
        assert_eq!(body, None);
        drop(listener);
        assert_eq!(ask(service, AWS, "").await, None);
    }
}
