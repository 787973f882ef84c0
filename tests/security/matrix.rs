//! Every RPC with every kind of credentials, as the table in docs/security.md has it.
//!
//! The requests are made from that table: the fields that it names are set, through the descriptors.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use columba::identity::jwt::Location;
use columba::proto::FILE_DESCRIPTOR_SET;
use columba::proto::v1::{PublishStreamResponse, publish_stream_response};
use futures::{StreamExt, stream};
use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::json;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::authorizing;
use crate::common::{TestServer, within};
use crate::issuer::{EcKey, key_file, now, settings};

const VERBS: [&str; 9] =
    ["publish", "consume", "manage", "send", "handle", "query", "read", "write", "admin"];
/// In place of a field: the name is not in the request.
const UNNAMED: [&str; 3] = ["any", "all", "the type of the command"];

/// An RPC, and what the docs say that it asks for.
struct Row {
    path: String,
    input: String,
    /// Verbs, and the fields that may name what they are for.
    asks: Vec<(String, Vec<String>)>,
}

struct Api {
    messages: BTreeMap<String, DescriptorProto>,
    rows: Vec<Row>,
}

impl Api {
    fn read() -> Self {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).unwrap();
        let documented: BTreeMap<_, _> = docs.lines().filter_map(documented).collect();
        let (mut messages, mut rows) = (BTreeMap::new(), Vec::new());
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                messages.insert(format!(".{package}.{}", message.name()), message);
            }
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}", service.name(), method.name());
                    let asks = documented.get(&name).unwrap_or_else(|| panic!("{name} is not in the docs"));
                    let path = format!("/{package}.{}/{}", service.name(), method.name());
                    rows.push(Row { path, input: method.input_type().to_owned(), asks: asks.clone() });
                }
            }
        }
        assert_eq!(rows.len(), documented.len(), "the docs have what there is");
        Self { messages, rows }
    }

    /// The encoded message with a text at a path of fields.
    fn encode(&self, message: &str, path: &str, text: &str) -> Vec<u8> {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let field = self.messages[message].field.iter().find(|field| field.name() == name);
        let field = field.unwrap_or_else(|| panic!("{message} has a field {name:?}, as the docs say"));
        let content = if let Some(rest) = rest {
            self.encode(field.type_name(), rest, text)
        } else {
            assert_eq!(field.r#type(), Type::String, "{message}.{name}");
            text.as_bytes().to_vec()
        };
        let mut encoded = Vec::new();
        prost::encoding::encode_key(
            field.number().try_into().unwrap(),
            prost::encoding::WireType::LengthDelimited,
            &mut encoded,
        );
        prost::encoding::encode_varint(content.len() as u64, &mut encoded);
        encoded.extend(content);
        encoded
    }

    /// Requests in which all that names something has this name: one for each field where one of several does.
    fn requests(&self, row: &Row, name: &str) -> Vec<Vec<u8>> {
        let variants = row.asks.iter().map(|(_, fields)| fields.len()).max().unwrap_or(1);
        let request = |variant: usize| {
            let fields = row.asks.iter().map(|(_, fields)| &fields[variant.min(fields.len() - 1)]);
            let named = fields.filter(|field| !UNNAMED.contains(&field.as_str()));
            let mut request: Vec<u8> = named.flat_map(|field| self.encode(&row.input, field, name)).collect();
            if row.path.ends_with("/ExplainAuthorization") {
                request.extend(self.encode(&row.input, "principal", "somebody"));
            }
            request
        };
        (0..variants).map(request).collect()
    }
}

/// A verb, and the fields that it is asked for.
type Ask = (String, Vec<String>);

/// The method of a row of the docs' table, and what it asks for.
fn documented(line: &str) -> Option<(String, Vec<Ask>)> {
    let (name, asks) = line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")?;
    if !name.contains("Service.") {
        return None;
    }
    if asks == "nothing" {
        return Some((name.to_owned(), Vec::new()));
    }
    let ask = |ask: &str| {
        let (verb, fields) = ask.strip_prefix('`').unwrap().split_once("`: ").unwrap();
        assert!(VERBS.contains(&verb), "{verb}");
        let fields = fields.split(", ").next().unwrap();
        (verb.to_owned(), fields.split(" or ").map(str::to_owned).collect())
    };
    Some((name.to_owned(), asks.split("; ").map(ask).collect()))
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The code of the first thing that the server says.
async fn call(server: &TestServer, path: &str, request: Vec<u8>, token: Option<&str>) -> Code {
    let mut client = tonic::client::Grpc::new(server.channel());
    client.ready().await.unwrap();
    let both = path.ends_with("/PublishStream") || path.ends_with("/Consume") || path.contains("reflection");
    // A stream of requests stays open; others have one.
    let rest = if both { stream::pending().boxed() } else { stream::empty().boxed() };
    let mut request = Request::new(stream::iter([request]).chain(rest));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let answer = async {
        let mut answers = client.streaming(request, path.parse().unwrap(), Raw).await?.into_inner();
        answers.message().await
    };
    match within(answer).await {
        Ok(Some(answer)) if path.ends_with("/PublishStream") => {
            match PublishStreamResponse::decode(answer).unwrap().result {
                Some(publish_stream_response::Result::Error(error)) => Code::from(error.code),
                _ => Code::Ok,
            }
        }
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// Rules for those who have only certain verbs for the right name, and for those who lack one verb.
fn rules(rows: &[Row]) -> String {
    let mut rules = String::new();
    for row in rows.iter().filter(|row| !row.asks.is_empty()) {
        let all = row.asks.iter().any(|(_, fields)| fields == &["all"]);
        let (who, names) = (only(row), if all { ">" } else { "right" });
        for (verb, _) in &row.asks {
            let rule =
                format!("[[rules]]\nprincipals = ['{who}']\nallow = ['{verb}']\nnames = ['{names}']\n");
            rules.push_str(&rule);
        }
    }
    for lacking in VERBS {
        let others: Vec<_> = VERBS.iter().filter(|verb| **verb != lacking).collect();
        let rule = format!("[[rules]]\nprincipals = ['no-{lacking}']\nallow = {others:?}\nnames = ['>']\n");
        rules.push_str(&rule);
    }
    rules
}

fn only(row: &Row) -> String {
    format!("only{}", row.path.replace('/', "-"))
}

/// Whether the server has let a call through to its service.
fn passed(code: Code) -> bool {
    !matches!(
        code,
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::Internal | Code::Unknown
    )
}

#[tokio::test]
async fn every_rpc_asks_for_what_the_docs_say() {
    let api = Api::read();
    let key = EcKey::new("key");
    let (dir, keys) = key_file(&[key.public()]);
    let settings = settings(Location::File(keys), Duration::ZERO);
    let server = authorizing(settings, dir.path(), &rules(&api.rows)).await;
    let token = |who: &str| key.token(&json!({ "sub": who }));
    let mut wrong = Vec::new();
    for row in &api.rows {
        let right_one = token(&only(row));
        let mut expect = async |what: &str, request: &[u8], token: Option<&str>, good: fn(Code) -> bool| {
            let code = call(&server, &row.path, request.to_vec(), token).await;
            if !good(code) {
                wrong.push(format!("{}: {what}: {code:?}", row.path));
            }
        };
        for request in api.requests(row, "right") {
            let unknown: fn(Code) -> bool = |code| code == Code::Unauthenticated;
            let denied: fn(Code) -> bool = |code| code == Code::PermissionDenied;
            let who = only(row);
            let expired = key.token(&json!({ "sub": who, "exp": now() - 60 }));
            let audience = key.token(&json!({ "sub": who, "aud": "other" }));
            let forged = EcKey::new("key").token(&json!({ "sub": who }));
            expect("no credentials", &request, None, unknown).await;
            expect("bad credentials", &request, Some(&forged), unknown).await;
            expect("no token at all", &request, Some("x"), unknown).await;
            expect("expired", &request, Some(&expired), unknown).await;
            expect("wrong audience", &request, Some(&audience), unknown).await;
            expect("right", &request, Some(&right_one), passed).await;
            let nobody = token("nobody");
            let for_nobody = if row.asks.is_empty() { passed } else { denied };
            expect("no rule", &request, Some(&nobody), for_nobody).await;
            for (verb, _) in &row.asks {
                expect(&format!("without {verb}"), &request, Some(&token(&format!("no-{verb}"))), denied)
                    .await;
            }
        }
        let named = row.asks.iter().any(|(_, fields)| !UNNAMED.contains(&&*fields[0]));
        if named {
            for request in api.requests(row, "wrong") {
                expect("wrong name", &request, Some(&right_one), |code| code == Code::PermissionDenied).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn helpers_need_an_identity_at_most() {
    let key = EcKey::new("key");
    let (dir, keys) = key_file(&[key.public()]);
    let server = authorizing(settings(Location::File(keys), Duration::ZERO), dir.path(), "").await;
    let nobody = key.token(&json!({ "sub": "nobody" }));
    for path in ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        assert_eq!(call(&server, path, Vec::new(), None).await, Code::Ok);
    }
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let list_services = vec![0x3a, 0];
        assert_eq!(call(&server, &path, list_services.clone(), None).await, Code::Unauthenticated);
        assert_eq!(call(&server, &path, list_services, Some(&nobody)).await, Code::Ok);
    }
    assert_eq!(call(&server, "/columba.v1.NoService/No", Vec::new(), None).await, Code::Unauthenticated);
    assert_eq!(
        call(&server, "/columba.v1.NoService/No", Vec::new(), Some(&nobody)).await,
        Code::Unimplemented
    );
}
