//! The web page: signing in, what a cookie opens and what not, and what else may be asked without either.

use api::{AddUser, Client, ProblemKind, SetPassword};
use futures::StreamExt;
use model::{EventKind, GuestState, UserName};
use serde_json::{Value, json};

use super::fixture::{PATIENCE, TestCluster, guest, refusal};

/// A browser that knows one host.
struct Browser {
    http: reqwest::Client,
    host: String,
    origin: String,
    cookie: Option<String>,
}

impl Browser {
    fn of(cluster: &TestCluster, host: usize) -> Self {
        let tls = api::client::trust_only(cluster.authority.certificate_pem()).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        let host = cluster.hosts[host].endpoint.clone();
        Self { http, origin: host.clone(), host, cookie: None }
    }

    fn ask(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.host));
        let request = request.header("origin", &self.origin);
        match &self.cookie {
            Some(cookie) => request.header("cookie", format!("other=1; {cookie}")),
            None => request,
        }
    }

    async fn status(&self, method: &str, path: &str) -> u16 {
        self.ask(method, path).send().await.unwrap().status().as_u16()
    }

    async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.ask("POST", path).json(body).send().await.unwrap()
    }

    /// Keeps the cookie; answers all that was said of it.
    async fn sign_in(&mut self, body: &Value) -> String {
        let answer = self.post("/v1/session", body).await;
        assert_eq!(answer.status(), 201);
        let said = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        self.cookie = said.split(';').next().map(str::to_owned);
        said
    }
}

async fn add_ada(client: &Client) -> UserName {
    let name: UserName = "ada".parse().unwrap();
    client.add_user(&AddUser { name: name.clone(), password: "correct horse".to_owned() }).await.unwrap();
    name
}

fn by_password(password: &str) -> Value {
    json!({ "user": "ada", "password": password })
}

#[tokio::test]
async fn a_session_opens_what_a_token_opens_until_it_is_ended() {
    let cluster = TestCluster::start(2).await;
    let name = add_ada(&cluster.client()).await;
    let mut browser = Browser::of(&cluster, 0);
    assert_eq!(browser.status("GET", "/v1/hosts").await, 401);
    let said = browser.sign_in(&by_password("correct horse")).await;
    for flag in ["__Host-kennel-", "Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age=43200"] {
        assert!(said.contains(flag), "{said}");
    }
    cluster.spread().await;
    // Every host of the cluster takes it.
    let elsewhere = Browser { cookie: browser.cookie.clone(), ..Browser::of(&cluster, 1) };
    assert_eq!(elsewhere.status("GET", "/v1/guests").await, 200);
    let who: Value = browser.ask("GET", "/v1/session").send().await.unwrap().json().await.unwrap();
    assert_eq!(who["name"], "ada");
    assert_eq!(browser.post("/v1/cluster/invitations", &json!({})).await.status(), 201);

    assert_eq!(browser.status("DELETE", "/v1/session").await, 200);
    assert_eq!(browser.status("GET", "/v1/hosts").await, 401);
    browser.sign_in(&by_password("correct horse")).await;
    let password = SetPassword { password: "battery staple".to_owned() };
    cluster.client().set_password(&name, &password).await.unwrap();
    cluster.spread().await;
    assert_eq!(browser.status("GET", "/v1/hosts").await, 401, "another password ends the sessions");
    browser.sign_in(&by_password("battery staple")).await;
    cluster.client().remove_user(&name).await.unwrap();
    cluster.spread().await;
    assert_eq!(browser.status("GET", "/v1/hosts").await, 401, "so does the user's end");
    browser.sign_in(&json!({ "token": cluster.token })).await;
    assert_eq!(browser.status("GET", "/v1/hosts").await, 200);
}

#[tokio::test]
async fn what_another_page_makes_a_browser_ask_is_refused() {
    let cluster = TestCluster::start(1).await;
    add_ada(&cluster.client()).await;
    let mut browser = Browser::of(&cluster, 0);
    browser.sign_in(&by_password("correct horse")).await;
    let forged = Browser { origin: "https://elsewhere.example".to_owned(), ..browser };
    for (method, path) in [("GET", "/v1/hosts"), ("POST", "/v1/cluster/invitations"), ("GET", "/v1/stream")] {
        assert_eq!(forged.status(method, path).await, 403, "{method} {path}");
    }
    assert_eq!(forged.post("/v1/session", &by_password("correct horse")).await.status(), 403);
    // A change must say where it comes from; a look need not.
    let cookie = forged.cookie.clone().unwrap();
    let silent = |method: &str, path: &str| {
        let request = forged.http.request(method.parse().unwrap(), format!("{}{path}", forged.host));
        request.header("cookie", cookie.clone()).send()
    };
    assert_eq!(silent("GET", "/v1/hosts").await.unwrap().status(), 200);
    assert_eq!(silent("POST", "/v1/cluster/invitations").await.unwrap().status(), 403);
}

#[tokio::test]
async fn wrong_passwords_are_slowed_down_and_told() {
    let cluster = TestCluster::start(1).await;
    add_ada(&cluster.client()).await;
    let browser = Browser::of(&cluster, 0);
    for _ in 0..4 {
        let answer = browser.post("/v1/session", &by_password("guess")).await;
        assert_eq!(answer.status(), 401);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["why"], "the name or the password is wrong");
    }
    let answer = browser.post("/v1/session", &by_password("correct horse")).await;
    assert_eq!(answer.status(), 429, "even the right one waits");
    let told = cluster.state.until(|cache| {
        let mut events = cache.view().events.values();
        events.any(|event| event.kind == EventKind::SignInRefused && event.subject == "user/ada")
    });
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(browser.post("/v1/session", &json!({ "user": "ada" })).await.status(), 422);
    let short = AddUser { name: "bob".parse().unwrap(), password: "short".to_owned() };
    let problem = refusal(cluster.client().add_user(&short).await);
    assert_eq!(problem.kind, ProblemKind::Invalid);
    assert_eq!(problem.instead, "use 8 characters or more");
}

#[tokio::test]
async fn the_page_is_for_everybody_and_nothing_beside_it_is() {
    let cluster = TestCluster::start(1).await;
    let browser = Browser::of(&cluster, 0);
    let page = browser.ask("GET", "/").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    for path in
        ["/assets/none.js", "/assets/..%2f..%2findex.html", "/assets/%2e%2e/Cargo.toml", "/index.html"]
    {
        assert_eq!(browser.status("GET", path).await, 404, "{path}");
    }
    let big = browser.ask("POST", "/v1/session").body(vec![b' '; 10 << 20]).send().await;
    // The host may hang up before all of it was sent.
    assert!(big.is_err() || big.is_ok_and(|answer| answer.status() == 422));
}

#[tokio::test]
async fn a_console_of_the_page_opens_with_a_ticket_only() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    add_ada(&client).await;
    client.create_guest(&api::CreateGuest::new(guest("web1"))).await.unwrap();
    cluster.settle(&guest("web1"), 0, GuestState::Stopped).await;
    let mut browser = Browser::of(&cluster, 0);
    browser.sign_in(&by_password("correct horse")).await;
    let answer = browser.post("/v1/guests/web1/console-tickets", &json!({})).await;
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["why"], "it is stopped", "what is in the way is said before");
    for path in ["/v1/guests/web1/console", "/v1/guests/web1/console?ticket=stale"] {
        assert_eq!(browser.status("GET", path).await, 403, "{path}");
    }
}

#[tokio::test]
async fn one_stream_tells_everything_and_ends_with_the_session() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    add_ada(&client).await;
    let mut browser = Browser::of(&cluster, 0);
    browser.sign_in(&by_password("correct horse")).await;
    let answer = browser.ask("GET", "/v1/stream").send().await.unwrap();
    let mut bytes = answer.bytes_stream();
    let mut text = String::new();
    let mut until = async |wanted: &str| {
        while !text.contains(wanted) {
            let more = tokio::time::timeout(PATIENCE, bytes.next()).await.unwrap();
            text.push_str(std::str::from_utf8(&more.expect("the stream goes on").unwrap()).unwrap());
        }
        std::mem::take(&mut text)
    };
    let beginning = until("\"hosts_total\":1").await;
    assert!(beginning.starts_with("event: snapshot\n") && beginning.contains("\"host1\""), "{beginning}");
    assert!(!beginning.contains("argon2"), "no hash of a password leaves the host");
    client.create_guest(&api::CreateGuest::new(guest("web1"))).await.unwrap();
    until("\"guests\":{\"web1\":{").await;
    assert_eq!(browser.status("DELETE", "/v1/session").await, 200);
    until("event: signed-out").await;
}
