//! Mail: plain text, handed to the operator's own mail server.

use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use model::{HostName, MailTls};

use super::{SEND_WITHIN, chain, notice, plainly};

pub(super) struct Way<'a> {
    pub to: &'a str,
    pub sender: &'a str,
    pub server: &'a str,
    pub port: u16,
    pub tls: MailTls,
    pub user: Option<&'a str>,
}

pub(super) async fn send(
    me: &HostName,
    way: &Way<'_>,
    password: Option<&str>,
    ca: Option<&str>,
    notice: &api::Notice,
) -> Result<(), String> {
    let message = compose(way, notice)?;
    let tls = match way.tls {
        MailTls::Starttls => Tls::Required(parameters(way.server, ca)?),
        MailTls::Tls => Tls::Wrapper(parameters(way.server, ca)?),
        MailTls::None => Tls::None,
    };
    // Dangerous would be no TLS unasked: it is what the target's record says.
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(way.server)
        .port(way.port)
        .tls(tls)
        .timeout(Some(SEND_WITHIN))
        .hello_name(ClientId::Domain(me.to_string()));
    if let (Some(user), Some(password)) = (way.user, password) {
        transport = transport.credentials(Credentials::new(user.to_owned(), password.to_owned()));
    }
    let sent = transport.build().send(message).await;
    sent.map(drop).map_err(|error| explain(&error, way))
}

fn compose(way: &Way<'_>, notice: &api::Notice) -> Result<Message, String> {
    let mailbox = |address: &str| {
        let parsed: Result<Address, _> = address.parse();
        parsed
            .map(|address| Mailbox::new(None, address))
            .map_err(|error| format!("'{address}' is no mail address: {error}"))
    };
    let (subject, text) = notice::mail(notice);
    let automatic =
        HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into());
    Message::builder()
        .from(mailbox(way.sender)?)
        .to(mailbox(way.to)?)
        .subject(subject)
        .message_id(Some(format!("<{}@kennel.invalid>", notice.id)))
        .raw_header(automatic)
        .header(ContentType::TEXT_PLAIN)
        .body(text)
        .map_err(|error| format!("write the mail: {error}"))
}

fn parameters(server: &str, ca: Option<&str>) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(server.to_owned());
    if let Some(ca) = ca {
        let authority = Certificate::from_pem(ca.as_bytes())
            .map_err(|error| format!("its certificate authority is damaged: {}", chain(&error)))?;
        builder = builder.add_root_certificate(authority);
    }
    builder.build_rustls().map_err(|error| format!("prepare TLS: {}", chain(&error)))
}

/// What a person can do about it, where that is known.
fn explain(error: &Error, way: &Way<'_>) -> String {
    let (causes, server) = (chain(error), way.server);
    if error.is_timeout() {
        return format!("{server} has not answered within {} s", SEND_WITHIN.as_secs());
    }
    let said = causes.to_lowercase();
    let code = error.status().map(|code| code.to_string()).unwrap_or_default();
    match code.as_str() {
        "535" | "534" => return format!("{server} refused the name or the password: {causes}"),
        "530" | "538" if said.contains("tls") => {
            return format!("{server} wants TLS: use --tls starttls, or --tls tls ({causes})");
        }
        "530" => {
            return format!(
                "{server} wants a name and a password: add --user and --password-file ({causes})"
            );
        }
        _ => {}
    }
    if said.contains("starttls") {
        return format!(
            "{server} does not offer STARTTLS on port {}: use --tls tls if that port begins with TLS, or --tls none if \
             mail may go there unprotected",
            way.port
        );
    }
    if said.contains("compatible authentication mechanism") {
        return format!("{server} offers no way to log in that is known here: leave out --user, or use TLS");
    }
    plainly(&causes, server).unwrap_or(causes)
}
