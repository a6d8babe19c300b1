//! Everything that can be asked, as one table, and the OpenAPI document made of it.
//!
//! The daemon's router is tested against the table, and `docs/openapi.json` against the document, so that
//! neither says what the other does not do.

use std::collections::BTreeMap;

use model::{Fence, HostUsage, Settings, Storm};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, Info, OpenApi, OpenApiBuilder, PathItem, Paths, Ref, RefOr, Required,
    ResponseBuilder, Schema, SecurityRequirement,
};
use utoipa::{PartialSchema, ToSchema};

use crate::watch::Removed;
use crate::{
    AddAlert, AddFenceDevice, AddHostView, AddUser, AlertTestView, AlertView, ApplyBalance, BalanceView,
    BuildImage, CapacityView, ChangeDuty, ChangeGuest, ChangeHost, ChangeSettings, ClusterDump,
    ClusterStatus, ConfirmedView, ConsoleTicket, ConvertVolume, CreateGuest, CreateNetwork, CreatePool,
    CreateRule, DutyAnswer, EndConnections, EventView, ExecAnswer, ExecRequest, FenceDeviceView, FenceHost,
    FenceTestView, GrowVolume, GuestView, HashAnswer, HashRequest, HostView, ImageView, IncidentView,
    Invitation, JobView, JoinAnswer, JoinRequest, LastLines, LastMoments, LossView, MigrateGuest,
    NetworkView, Notice, PoolView, Problem, PromiseAnswer, PromiseRequest, RebootView, RegisterImage,
    ReplaceRule, ReplaceSecondary, ResyncVolume, RuleView, SeriesView, SessionView, SetPassword, SignIn,
    StagedFile, UserView, VolumeView, WhyView,
};

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever holds an admin token, and every host of the cluster.
    Operator,
    /// Hosts of the cluster, by their certificates.
    Host,
    /// Anybody.
    Anybody,
}

/// One thing that can be asked.
#[derive(Clone)]
pub struct Endpoint {
    pub method: HttpMethod,
    /// With `{…}` for what varies.
    pub path: &'static str,
    pub access: Access,
    summary: &'static str,
    tag: &'static str,
    body: Body,
    status: &'static str,
    answer: Body,
    query: &'static [(&'static str, &'static str)],
    schemas: Vec<(String, RefOr<Schema>)>,
}

#[derive(Clone)]
enum Body {
    Nothing,
    Json(Box<RefOr<Schema>>),
    Bytes,
    Text,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} {})", self.method_name(), self.path)
    }
}

const WATCH: &[(&str, &str)] = &[("watch", "Answer with a stream of server-sent events instead of a list")];
const EVENTS: &[(&str, &str)] = &[
    ("subject", "Only the events about this, as in guest/web1"),
    ("limit", "Only the newest so many"),
    ("watch", "Answer with a stream of server-sent events instead of a list"),
];

const TICKET: &[(&str, &str)] = &[
    ("ticket", "From console-tickets; needed by whoever asks with a cookie instead of a token"),
    ("scroll_back", "Begin with what the guest said last"),
];
const SCREEN_TICKET: &[(&str, &str)] = &[TICKET[0]];
const SERIES: &[(&str, &str)] = &[
    ("from", "As in 2026-11-21T08:00:00Z; default: an hour before the end"),
    ("to", "Default: now"),
    ("step", "Seconds, a multiple of 10; default: the smallest that makes 360 steps or fewer"),
];
const OWN_SERIES: &[(&str, &str)] = &[
    ("guest", "A guest's id; default: the host itself"),
    ("from", "As in 2026-11-21T08:00:00Z; default: an hour before the end"),
    ("to", "Default: now"),
    ("step", "Seconds, a multiple of 10; default: the smallest that makes 360 steps or fewer"),
];
const GUEST: &[(&str, &str)] = &[("guest", "A guest's id")];
const FORCE: &[(&str, &str)] = &[("force", "Though the cluster could no longer survive what it promises to")];
const SHAPE: &[(&str, &str)] = &[
    ("memory", "Of one guest, as in 4G; default 512M"),
    ("disk", "Of one guest, on each host that holds a replica; default 10G"),
    ("vcpus", "Of one guest; default 1"),
    (
        "pool",
        "The kind of pool that its disks are in: local, mirror or shared; default mirror, when there are two hosts",
    ),
];
const NEW_HOST: &[(&str, &str)] = &[
    ("memory", "All of its memory, as in 64G"),
    ("disk", "For volumes, as in 2T"),
    ("cores", "Its processors"),
    ("zone", "Where it would stand; default: in a zone of its own"),
];

impl Endpoint {
    fn new(method: HttpMethod, path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            access: Access::Operator,
            summary,
            tag,
            body: Body::Nothing,
            status: "200",
            answer: Body::Nothing,
            query: &[],
            schemas: Vec::new(),
        }
    }

    /// As in `GET`.
    pub fn method_name(&self) -> &'static str {
        match self.method {
            HttpMethod::Get => "GET",
            HttpMethod::Post => "POST",
            HttpMethod::Delete => "DELETE",
            HttpMethod::Put => "PUT",
            HttpMethod::Options => "OPTIONS",
            HttpMethod::Head => "HEAD",
            HttpMethod::Patch => "PATCH",
            HttpMethod::Trace => "TRACE",
        }
    }

    fn get(path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self::new(HttpMethod::Get, path, tag, summary)
    }

    fn post(path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self::new(HttpMethod::Post, path, tag, summary)
    }

    fn delete(path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self::new(HttpMethod::Delete, path, tag, summary)
    }

    fn put(path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self::new(HttpMethod::Put, path, tag, summary)
    }

    fn patch(path: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self::new(HttpMethod::Patch, path, tag, summary)
    }

    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        RefOr::Ref(Ref::from_schema_name(T::name()))
    }

    fn takes<T: ToSchema>(mut self) -> Self {
        self.body = Body::Json(Box::new(self.schema::<T>()));
        self
    }

    fn takes_bytes(mut self) -> Self {
        self.body = Body::Bytes;
        self
    }

    fn gives<T: ToSchema>(mut self) -> Self {
        self.answer = Body::Json(Box::new(self.schema::<T>()));
        self
    }

    fn gives_bytes(mut self) -> Self {
        self.answer = Body::Bytes;
        self
    }

    fn gives_text(mut self) -> Self {
        self.answer = Body::Text;
        self
    }

    /// A list that can be watched.
    fn lists<T: ToSchema>(mut self) -> Self {
        let items = self.schema::<T>();
        let list = Schema::Array(ArrayBuilder::new().items(items).build());
        self.answer = Body::Json(Box::new(RefOr::T(list)));
        self.query = WATCH;
        self
    }

    /// What goes on after the answer.
    fn starts_job(mut self) -> Self {
        self.status = "202";
        self.gives::<JobView>()
    }

    fn status(mut self, status: &'static str) -> Self {
        self.status = status;
        self
    }

    fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }
}

/// Everything that can be asked.
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = cluster_endpoints();
    all.extend(guest_endpoints());
    all.extend(resource_endpoints());
    all.extend(fencing_endpoints());
    all.extend(incident_endpoints());
    all.extend(image_endpoints());
    all.extend(planning_endpoints());
    all.extend(session_endpoints());
    all.extend(measured_endpoints());
    all
}

fn measured_endpoints() -> Vec<Endpoint> {
    let series = |path, summary| Endpoint {
        query: SERIES,
        ..Endpoint::get(path, "measured", summary).gives::<SeriesView>()
    };
    vec![
        Endpoint::get("/metrics", "measured", "What this host measures and knows, as Prometheus text")
            .gives_text(),
        series("/v1/hosts/{name}/series", "What a host used over time: a day in 10 s, a month in 5 min"),
        series("/v1/guests/{name}/series", "What a guest used over time, on whichever hosts it was"),
        Endpoint::get("/v1/guests/{name}/last-lines", "guests", "What a guest said last on its serial port")
            .gives::<LastLines>(),
        Endpoint {
            query: GUEST,
            ..Endpoint::get("/v1/internal/last-lines", "guests", "What a guest said last on this host")
                .access(Access::Host)
                .gives::<LastLines>()
        },
        Endpoint::get(
            "/v1/guests/{name}/last-moments",
            "guests",
            "What a guest showed last before each reset",
        )
        .gives::<LastMoments>(),
        Endpoint {
            query: GUEST,
            ..Endpoint::get("/v1/internal/last-moments", "guests", "What a guest showed last on this host")
                .access(Access::Host)
                .gives::<LastMoments>()
        },
        Endpoint {
            query: OWN_SERIES,
            ..Endpoint::get("/v1/internal/series", "measured", "What this host measured over time")
                .access(Access::Host)
                .gives::<SeriesView>()
        },
    ]
}

fn session_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/session", "session", "Sign in: the answer sets a cookie that opens all of this")
            .access(Access::Anybody)
            .takes::<SignIn>()
            .status("201")
            .gives::<SessionView>(),
        Endpoint::get("/v1/session", "session", "Who asks, if anybody is signed in")
            .access(Access::Anybody)
            .gives::<SessionView>(),
        Endpoint::delete("/v1/session", "session", "Sign out"),
        Endpoint::get("/v1/users", "session", "Who may sign in with a password").lists::<UserView>(),
        Endpoint::post("/v1/users", "session", "Let somebody sign in with a password")
            .takes::<AddUser>()
            .status("201")
            .gives::<UserView>(),
        Endpoint::put("/v1/users/{name}/password", "session", "Another password; the user's sessions end")
            .takes::<SetPassword>()
            .gives::<UserView>(),
        Endpoint::delete("/v1/users/{name}", "session", "Remove a user; the user's sessions end"),
        Endpoint::post(
            "/v1/guests/{name}/console-tickets",
            "guests",
            "A ticket that opens the guest's console once",
        )
        .status("201")
        .gives::<ConsoleTicket>(),
        Endpoint::get(
            "/v1/stream",
            "session",
            "Everything, and then what changes: server-sent events for the web page",
        ),
    ]
}

fn cluster_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/healthz", "cluster", "Whether this host's kenneld is up").access(Access::Anybody),
        Endpoint::get("/v1/openapi.json", "cluster", "This document").access(Access::Anybody),
        Endpoint::get("/v1/cluster", "cluster", "The cluster at a glance").gives::<ClusterStatus>(),
        Endpoint::post("/v1/cluster/invitations", "cluster", "A token that lets one more host in, once")
            .status("201")
            .gives::<Invitation>(),
        Endpoint::patch("/v1/cluster/settings", "cluster", "Change what holds for the whole cluster")
            .takes::<ChangeSettings>()
            .gives::<Settings>(),
        Endpoint::post("/v1/cluster/join", "cluster", "Let a host in that holds a join token")
            .access(Access::Anybody)
            .takes::<JoinRequest>()
            .gives::<JoinAnswer>(),
        Endpoint::get("/v1/hosts", "hosts", "The hosts").lists::<HostView>(),
        Endpoint::get("/v1/hosts/{name}", "hosts", "One host").gives::<HostView>(),
        Endpoint::patch("/v1/hosts/{name}", "hosts", "Change a host's zone, tags or settings")
            .takes::<ChangeHost>()
            .gives::<HostView>(),
        Endpoint::post("/v1/hosts/{name}/duty", "hosts", "Have everything leave a host, or let it come back")
            .takes::<ChangeDuty>()
            .gives::<DutyAnswer>(),
        Endpoint::get("/v1/hosts/{name}/usage", "hosts", "What a host and its guests use, as averages")
            .gives::<HostUsage>(),
        Endpoint::get("/v1/internal/usage", "hosts", "What this host and its guests use, as averages")
            .access(Access::Host)
            .gives::<HostUsage>(),
        Endpoint::get("/v1/usage", "hosts", "What every host and its guests use").gives::<Vec<HostUsage>>(),
        Endpoint::post("/v1/internal/promise", "hosts", "Promise not to take a guest over for a while")
            .access(Access::Host)
            .takes::<PromiseRequest>()
            .gives::<PromiseAnswer>(),
        Endpoint::post(
            "/v1/internal/end-connections",
            "hosts",
            "End all connections to a replica, and serve it on",
        )
        .access(Access::Host)
        .takes::<EndConnections>(),
        Endpoint::post("/v1/internal/replica-hashes", "hosts", "Hashes of a replica that this host serves")
            .access(Access::Host)
            .takes::<HashRequest>()
            .gives::<HashAnswer>(),
    ]
}

fn guest_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/guests", "guests", "The guests").lists::<GuestView>(),
        Endpoint::post("/v1/guests", "guests", "Create a guest").takes::<CreateGuest>().starts_job(),
        Endpoint::get("/v1/guests/{name}", "guests", "One guest").gives::<GuestView>(),
        Endpoint::patch("/v1/guests/{name}", "guests", "Change a guest")
            .takes::<ChangeGuest>()
            .gives::<GuestView>(),
        Endpoint::delete("/v1/guests/{name}", "guests", "End a guest and delete its disks").starts_job(),
        Endpoint {
            query: FORCE,
            ..Endpoint::post("/v1/guests/{name}/start", "guests", "Start a guest").starts_job()
        },
        Endpoint::post("/v1/guests/{name}/stop", "guests", "Shut a guest down").starts_job(),
        Endpoint::post("/v1/guests/{name}/restart", "guests", "Shut a guest down and start it").starts_job(),
        Endpoint::post(
            "/v1/guests/{name}/migrate",
            "guests",
            "Bring a guest, or its secondary, to another host",
        )
        .takes::<MigrateGuest>()
        .starts_job(),
        Endpoint::post("/v1/guests/{name}/exec", "guests", "Run a program inside a guest")
            .takes::<ExecRequest>()
            .gives::<ExecAnswer>(),
        Endpoint {
            query: TICKET,
            ..Endpoint::get(
                "/v1/guests/{name}/console",
                "guests",
                "A guest's serial console: a WebSocket of binary frames",
            )
            .status("101")
        },
        Endpoint {
            query: SCREEN_TICKET,
            ..Endpoint::get(
                "/v1/guests/{name}/screen",
                "guests",
                "A guest's screen: a WebSocket of binary frames in the RFB protocol (RFC 6143), as noVNC speaks it",
            )
            .status("101")
        },
    ]
}

fn resource_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/volumes", "volumes", "The volumes").lists::<VolumeView>(),
        Endpoint::get("/v1/volumes/{id}", "volumes", "One volume").gives::<VolumeView>(),
        Endpoint::post(
            "/v1/volumes/{id}/replace-secondary",
            "volumes",
            "Bring the secondary replicas of the volume's guest to another host",
        )
        .takes::<ReplaceSecondary>()
        .starts_job(),
        Endpoint::post(
            "/v1/volumes/{id}/resync",
            "volumes",
            "Fill the secondary replicas of the volume's guest anew",
        )
        .takes::<ResyncVolume>()
        .gives::<VolumeView>(),
        Endpoint::post("/v1/volumes/{id}/verify", "volumes", "Compare both replicas while the guest runs")
            .starts_job(),
        Endpoint::post("/v1/volumes/{id}/grow", "volumes", "Make a volume larger, also while its guest runs")
            .takes::<GrowVolume>()
            .gives::<VolumeView>(),
        Endpoint::post(
            "/v1/volumes/{id}/convert",
            "volumes",
            "Put the disks of the volume's guest into another pool",
        )
        .takes::<ConvertVolume>()
        .starts_job(),
        Endpoint::get("/v1/networks", "networks", "The networks").lists::<NetworkView>(),
        Endpoint::post("/v1/networks", "networks", "Create a network")
            .takes::<CreateNetwork>()
            .status("201")
            .gives::<NetworkView>(),
        Endpoint::get("/v1/networks/{name}", "networks", "One network").gives::<NetworkView>(),
        Endpoint::delete("/v1/networks/{name}", "networks", "Delete a network that no guest is on"),
        Endpoint::get("/v1/pools", "pools", "The pools, and which host reaches which").lists::<PoolView>(),
        Endpoint::post("/v1/pools", "pools", "Make a pool of storage that hosts share")
            .takes::<CreatePool>()
            .status("201")
            .gives::<PoolView>(),
        Endpoint::get("/v1/pools/{name}", "pools", "One pool").gives::<PoolView>(),
        Endpoint::delete("/v1/pools/{name}", "pools", "Delete a pool that no volume is in"),
        Endpoint::get("/v1/jobs", "jobs", "The jobs").lists::<JobView>(),
        Endpoint::get("/v1/jobs/{id}", "jobs", "One job").gives::<JobView>(),
        Endpoint::post("/v1/jobs/{id}/cancel", "jobs", "Ask for a job to be cancelled").gives::<JobView>(),
        Endpoint {
            query: EVENTS,
            ..Endpoint::get("/v1/events", "events", "What happened, the oldest first").lists::<EventView>()
        },
    ]
}

/// What proves that a host runs nothing, and its power.
fn fencing_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post(
            "/v1/cluster/storm/go-on",
            "cluster",
            "Say that the hosts of a storm are lost for good: recovery is not slowed any more",
        )
        .gives::<Storm>(),
        Endpoint::post(
            "/v1/hosts/{name}/confirm-dead",
            "hosts",
            "Say that a lost host runs nothing any more: it was seen to be off",
        )
        .gives::<ConfirmedView>(),
        Endpoint::post(
            "/v1/hosts/{name}/fence-devices",
            "hosts",
            "Name a device that can take a host's power; it is asked whether there is power now",
        )
        .takes::<AddFenceDevice>()
        .status("201")
        .gives::<FenceDeviceView>(),
        Endpoint::delete(
            "/v1/hosts/{name}/fence-devices/{device}",
            "hosts",
            "Forget a fence device, and what it was told in confidence",
        ),
        Endpoint::post("/v1/hosts/{name}/fence", "hosts", "Have the leader take a host's power")
            .takes::<FenceHost>()
            .status("202")
            .gives::<Fence>(),
        Endpoint::post("/v1/hosts/{name}/unfence", "hosts", "Give a host its power back")
            .gives::<FenceTestView>(),
        Endpoint::post(
            "/v1/hosts/{name}/fence-test",
            "hosts",
            "Ask every fence device of a host whether there is power; nothing is switched",
        )
        .gives::<FenceTestView>(),
    ]
}

/// What went wrong, and who is told of it.
fn incident_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/incidents", "incidents", "What went wrong, as one story each, the newest last")
            .lists::<IncidentView>(),
        Endpoint::get("/v1/incidents/{id}", "incidents", "One incident").gives::<IncidentView>(),
        Endpoint::get("/v1/alerts", "incidents", "Who is told of incidents").lists::<AlertView>(),
        Endpoint::post("/v1/alerts", "incidents", "Have a webhook, or somebody by mail, told of incidents")
            .takes::<AddAlert>()
            .status("201")
            .gives::<AlertView>(),
        Endpoint::delete("/v1/alerts/{name}", "incidents", "Tell somebody of incidents no more"),
        Endpoint::post("/v1/alerts/{name}/test", "incidents", "Have the host that is asked send a test")
            .gives::<AlertTestView>(),
    ]
}

fn planning_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/rules", "rules", "The placement rules, and whether each is kept")
            .lists::<RuleView>(),
        Endpoint::post("/v1/rules", "rules", "Create a rule; what contradicts another one is named")
            .takes::<CreateRule>()
            .status("201")
            .gives::<RuleView>(),
        Endpoint::get("/v1/rules/{name}", "rules", "One rule").gives::<RuleView>(),
        Endpoint::put("/v1/rules/{name}", "rules", "Say something else under a rule's name")
            .takes::<ReplaceRule>()
            .gives::<RuleView>(),
        Endpoint::delete("/v1/rules/{name}", "rules", "Delete a rule"),
        Endpoint::get("/v1/guests/{name}/why", "planning", "Why a guest is where it is, and not elsewhere")
            .gives::<WhyView>(),
        Endpoint::get("/v1/balance", "planning", "What balancing would do now").gives::<BalanceView>(),
        Endpoint::post("/v1/balance", "planning", "Carry out the proposal that was seen")
            .takes::<ApplyBalance>()
            .starts_job(),
        Endpoint {
            query: SHAPE,
            ..Endpoint::get(
                "/v1/capacity",
                "planning",
                "How many more guests fit, and what the cluster survives",
            )
            .gives::<CapacityView>()
        },
        Endpoint::get("/v1/what-if/host-loss/{name}", "planning", "What the loss of a host would do")
            .gives::<LossView>(),
        Endpoint {
            query: NEW_HOST,
            ..Endpoint::get("/v1/what-if/add-host", "planning", "What one more host would bring")
                .gives::<AddHostView>()
        },
        Endpoint::get("/v1/plan/reboot", "planning", "Which hosts may be rebooted together, in which order")
            .gives::<RebootView>(),
        Endpoint::get("/v1/cluster/dump", "planning", "Everything that a plan rests on")
            .gives::<ClusterDump>(),
    ]
}

fn image_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/images", "images", "The images").lists::<ImageView>(),
        Endpoint::post("/v1/images", "images", "Enter uploaded files in the catalogue as an image")
            .takes::<RegisterImage>()
            .status("201")
            .gives::<ImageView>(),
        Endpoint::get("/v1/images/{name}", "images", "One image").gives::<ImageView>(),
        Endpoint::delete("/v1/images/{name}", "images", "Delete an image that no guest needs"),
        Endpoint::post("/v1/images/{name}/build", "images", "Have the host that is asked make an image")
            .takes::<BuildImage>()
            .starts_job(),
        Endpoint::post("/v1/image-files", "images", "Upload one file of an image")
            .takes_bytes()
            .status("201")
            .gives::<StagedFile>(),
        Endpoint::get("/v1/image-files/{sha256}", "images", "The bytes of an image's file")
            .access(Access::Host)
            .gives_bytes(),
    ]
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    let endpoints = endpoints();
    let mut schemas: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    let mut more = vec![
        (Problem::name().into_owned(), Problem::schema()),
        (Removed::name().into_owned(), Removed::schema()),
        // The body of a webhook's request.
        (Notice::name().into_owned(), Notice::schema()),
    ];
    Problem::schemas(&mut more);
    Notice::schemas(&mut more);
    schemas.extend(more);
    let mut paths = Paths::new();
    for endpoint in endpoints {
        schemas.extend(endpoint.schemas.clone());
        let item = PathItem::new(endpoint.method.clone(), operation(&endpoint));
        match paths.paths.get_mut(endpoint.path) {
            Some(present) => present.merge_operations(item),
            None => {
                paths.paths.insert(endpoint.path.to_owned(), item);
            }
        }
    }
    let components = schemas
        .into_iter()
        .fold(ComponentsBuilder::new(), |components, (name, schema)| components.schema(name, schema))
        .security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .build();
    let mut info = Info::new("Kennel", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Every refusal is application/problem+json (RFC 9457). A list with ?watch=true answers with \
         server-sent events: `snapshot` with the whole list, then `changed` with an item, `removed` with its \
         id, and `heartbeat`."
            .to_owned(),
    );
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).build()
}

fn operation(endpoint: &Endpoint) -> utoipa::openapi::path::Operation {
    let problem = Content::new(Some(RefOr::Ref::<Schema>(Ref::from_schema_name("Problem"))));
    let answer = match content(&endpoint.answer) {
        Some((kind, content)) => ResponseBuilder::new().description("Done").content(kind, content),
        None => ResponseBuilder::new().description("Done"),
    };
    let refusal = ResponseBuilder::new()
        .description("What was asked, why not, and what would work")
        .content("application/problem+json", problem);
    let mut operation = OperationBuilder::new()
        .tag(endpoint.tag)
        .summary(Some(endpoint.summary))
        .operation_id(Some(operation_id(endpoint)))
        .response(endpoint.status, answer)
        .response("default", refusal);
    for name in endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        operation = operation.parameter(parameter(name, None, ParameterIn::Path));
    }
    for (name, meaning) in endpoint.query {
        operation = operation.parameter(parameter(name, Some(meaning), ParameterIn::Query));
    }
    if let Some((kind, content)) = content(&endpoint.body) {
        let body = RequestBodyBuilder::new().content(kind, content).required(Some(Required::True));
        operation = operation.request_body(Some(body.build()));
    }
    if endpoint.access == Access::Operator {
        operation = operation.security(SecurityRequirement::new("token", Vec::<String>::new()));
    }
    operation.build()
}

/// As in `get-v1-guests-name`.
fn operation_id(endpoint: &Endpoint) -> String {
    let method = endpoint.method_name().to_lowercase();
    let path = endpoint.path.replace(['{', '}'], "").replace(['/', '.'], "-");
    format!("{method}{path}")
}

fn parameter(name: &str, meaning: Option<&str>, place: ParameterIn) -> Parameter {
    let kind = match name {
        "watch" | "force" | "scroll_back" => Type::Boolean,
        "limit" | "vcpus" | "cores" | "step" => Type::Integer,
        _ => Type::String,
    };
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(meaning)
        .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(kind))))
        .build()
}

fn content(body: &Body) -> Option<(&'static str, Content)> {
    match body {
        Body::Nothing => None,
        Body::Json(schema) => Some(("application/json", Content::new(Some((**schema).clone())))),
        Body::Bytes => Some(("application/octet-stream", Content::new(None::<RefOr<Schema>>))),
        Body::Text => Some(("text/plain", Content::new(None::<RefOr<Schema>>))),
    }
}
