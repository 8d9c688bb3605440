//! From a received message to the message sent back.

use super::answer::{Answer, Zone};
use super::forward::Forwarder;
use crate::directory::Directory;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::DNSClass;
use std::sync::Arc;

/// Largest answer over UDP, whatever the asker takes: fits every link without fragments.
const UDP_BYTES_MAX: u16 = 1232;
/// Largest answer over UDP to who does not say how much it takes.
const UDP_BYTES_PLAIN: u16 = 512;
/// Aliases followed within the cluster.
const ALIASES_MAX: usize = 4;

/// Answers questions.
pub struct Responder {
    pub zone: Zone,
    pub directory: Arc<Directory>,
    pub forwarder: Forwarder,
}

/// What becomes of a message.
pub enum Reply {
    /// Nothing is sent.
    None,
    Send(Vec<u8>),
    /// It needs the machine's resolvers: [`Responder::finish`].
    Later(Box<Unfinished>),
}

/// A question that waits for the machine's resolvers.
pub struct Unfinished {
    question: Vec<u8>,
    query: Message,
    /// The answer so far, to be completed with the addresses of the target.
    alias: Option<(Message, Query)>,
    udp: bool,
}

impl Responder {
    /// What can be said at once.
    pub fn respond(&self, bytes: &[u8], udp: bool) -> Reply {
        let Ok(query) = Message::from_vec(bytes) else { return malformed(bytes) };
        // Answering an answer would make two servers talk to each other for ever.
        if query.metadata.message_type == MessageType::Response {
            return Reply::None;
        }
        let mut response = start(&query);
        if query.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return Reply::Send(encode(response, &query, udp));
        }
        let [question] = query.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return Reply::Send(encode(response, &query, udp));
        };
        let (mut name, kind, class) =
            (question.name().clone(), question.query_type(), question.query_class());
        for _ in 0..ALIASES_MAX {
            let answer = match class {
                DNSClass::IN => self.zone.answer(&self.directory.read(), &name, kind),
                _ => Answer::Forward,
            };
            let ours = !matches!(answer, Answer::Forward);
            if ours && !self.directory.synced() {
                response.metadata.response_code = ResponseCode::ServFail;
                return Reply::Send(encode(response, &query, udp));
            }
            response.metadata.authoritative |= ours;
            match answer {
                Answer::Forward => {
                    let alias = (!response.answers.is_empty()).then(|| {
                        let target = Query::query(name, kind);
                        (response.clone(), target)
                    });
                    let question = bytes.to_vec();
                    return Reply::Later(Box::new(Unfinished { question, query, alias, udp }));
                }
                Answer::Alias { record, target } => {
                    response.add_answer(*record);
                    name = target;
                    continue;
                }
                Answer::Found { mut answers, additionals } => {
                    // Askers take the first address: spread them.
                    fastrand::shuffle(&mut answers);
                    if answers.is_empty() {
                        response.add_authorities(self.zone.authority(&name));
                    }
                    response.add_answers(answers);
                    response.add_additionals(additionals);
                }
                Answer::NoSuchName => {
                    response.metadata.response_code = ResponseCode::NXDomain;
                    response.add_authorities(self.zone.authority(&name));
                }
            }
            return Reply::Send(encode(response, &query, udp));
        }
        response.metadata.response_code = ResponseCode::ServFail;
        Reply::Send(encode(response, &query, udp))
    }

    /// Completes an answer with the machine's resolvers; SERVFAIL when none answers.
    pub async fn finish(&self, unfinished: Unfinished) -> Vec<u8> {
        let Unfinished { question, query, alias, udp } = unfinished;
        let Some((mut response, target)) = alias else {
            return match self.forwarder.ask(&question, !udp).await {
                Some(answer) => answer,
                None => refuse(&query, udp),
            };
        };
        let mut ask = Message::query();
        ask.metadata.recursion_desired = true;
        ask.add_query(target);
        let answer = match ask.to_vec() {
            Ok(bytes) => self.forwarder.ask(&bytes, !udp).await,
            Err(_) => None,
        };
        match answer.and_then(|a| Message::from_vec(&a).ok()) {
            Some(answer) => {
                response.metadata.response_code = answer.metadata.response_code;
                response.add_answers(answer.answers);
                encode(response, &query, udp)
            }
            // The alias alone is of use, and all that there is without resolvers.
            None => {
                response.metadata.response_code = ResponseCode::ServFail;
                encode(response, &query, udp)
            }
        }
    }
}

/// SERVFAIL.
pub fn refuse(query: &Message, udp: bool) -> Vec<u8> {
    let mut response = start(query);
    response.metadata.response_code = ResponseCode::ServFail;
    encode(response, query, udp)
}

impl Unfinished {
    /// SERVFAIL: there are too many questions waiting.
    pub fn refuse(&self) -> Vec<u8> {
        refuse(&self.query, self.udp)
    }
}

fn start(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.checking_disabled = query.metadata.checking_disabled;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    response
}

fn malformed(bytes: &[u8]) -> Reply {
    const HEADER_BYTES: usize = 12;
    const RESPONSE: u8 = 0x80;
    if bytes.len() < HEADER_BYTES || bytes[2] & RESPONSE != 0 {
        return Reply::None;
    }
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    match Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec() {
        Ok(reply) => Reply::Send(reply),
        Err(_) => Reply::None,
    }
}

fn encode(mut response: Message, query: &Message, udp: bool) -> Vec<u8> {
    let mut limit = usize::from(u16::MAX);
    if let Some(edns) = &query.edns {
        let mut own = Edns::new();
        own.set_max_payload(UDP_BYTES_MAX);
        own.set_version(0);
        response.set_edns(own);
        if udp {
            limit = usize::from(edns.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX));
        }
    } else if udp {
        limit = usize::from(UDP_BYTES_PLAIN);
    }
    let bytes = response.to_vec().unwrap_or_default();
    if bytes.len() <= limit {
        return bytes;
    }
    // Additional records are a courtesy; without them the answer may fit.
    response.additionals.clear();
    match response.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        _ => response.truncate().to_vec().unwrap_or_default(),
    }
}
