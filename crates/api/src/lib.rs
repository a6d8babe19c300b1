//! What can be asked of a cluster: wire types, the OpenAPI document, and the typed client.
//!
//! Everything a person or a program reads is a *view*: computed from the records of `model` when it is
//! asked for, never stored. The daemon serves [`openapi::endpoints`]; the command line and the other hosts
//! ask through [`Client`]. A refusal travels as a [`Problem`] (RFC 9457) and is shown word for word.
//!
//! Every list can be watched: `?watch=true` turns the answer into a stream of server-sent events, which
//! begins with everything (`snapshot`) and goes on with what changes ([`WatchEvent`]).

mod alert;
mod change;
pub mod client;
mod cluster;
mod config;
mod encoding;
mod event;
mod fence;
mod guest;
mod host;
mod image;
mod incident;
mod job;
mod last_lines;
mod local;
mod network;
pub mod openapi;
mod peer;
mod planning;
mod pool;
mod problem;
mod rule;
mod series;
mod session;
mod volume;
mod watch;

pub use alert::{AddAlert, AlertTestView, AlertView, Notice, NoticeKind, SIGNATURE_HEADER};
pub use change::{
    ChangeDuty, ChangeGuest, ChangeHealth, ChangeHost, ChangeHostSettings, ChangeSettings, ChangeTags,
    DutyAnswer,
};
pub use client::{Client, ClientError, Console, ConsoleEvent, ImportImage, LocalClient};
pub use cluster::{
    ClusterStatus, InvalidJoinToken, Invitation, JoinAnswer, JoinRequest, JoinToken, StoreMemberView,
};
pub use config::{ClientConfig, ConfigError};
pub use encoding::Blob;
pub use event::{EventQuery, EventView};
pub use fence::{AddFenceDevice, DeviceTestView, FenceDeviceView, FenceHost, FenceTestView};
pub use guest::{
    CreateDisk, CreateGuest, ExecAnswer, ExecRequest, GuestView, LastMomentView, LastMoments, MigrateGuest,
    PictureView,
};
pub use host::HostView;
pub use image::{BuildImage, ImageView, RegisterImage, StagedFile};
pub use incident::{IncidentGuestView, IncidentView, utc};
pub use job::JobView;
pub use last_lines::{LastLines, LastLinesOfHost};
pub use local::{InitAnswer, InitRequest, LocalJoinAnswer, LocalJoinRequest, LocalStatus};
pub use network::{CreateNetwork, NetworkView};
pub use peer::{EndConnections, HashAnswer, HashRequest, PromiseAnswer, PromiseRequest};
pub use planning::{
    AddHostQuery, AddHostView, ApplyBalance, BalanceView, CapacityView, ClusterDump, FitsView, LossView,
    MoveView, OutlookView, RebootGroupView, RebootView, RestartView, RoomView, ShapeQuery, WhyView,
};
pub use pool::{ConfirmedView, CreatePool, PoolHostView, PoolView};
pub use problem::{Problem, ProblemKind};
pub use rule::{CreateRule, ReplaceRule, RuleState, RuleView};
pub use series::{SeriesQuery, SeriesView};
pub use session::{AddUser, ConsoleTicket, SessionView, SetPassword, SignIn, UserView};
pub use volume::{
    ConvertVolume, GrowVolume, ReplaceSecondary, ReplicaRole, ReplicaView, ResyncVolume, VolumeView,
};
pub use watch::{ListQuery, WatchEvent, Watched};

/// The port on which every host answers.
pub const PORT: u16 = 7440;

/// Set on a request that one host passes on to another; whoever gets it answers and passes nothing on.
pub const FORWARDED_HEADER: &str = "kennel-forwarded";

/// Set on an answer from a host that is cut off from the state store: what it says may be old.
pub const OLD_HEADER: &str = "kennel-old";
