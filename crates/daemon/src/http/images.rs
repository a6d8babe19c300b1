//! Images: their files come up to one host, are entered in the catalogue, and go to the other hosts.

use api::{BuildImage, ImageView, JobView, ProblemKind, RegisterImage, StagedFile};
use axum::body::Body as Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::TryStreamExt;
use host::image::inspect::{NotAnImage, inspect};
use jiff::Timestamp;
use model::{BootFrom, ClusterView, GuestSpec, Image, ImageFile, ImageName, JobKind};
use store::{Cache, keys};
use tokio::sync::Mutex;
use tokio_util::io::{ReaderStream, StreamReader};

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, commit};

const SHA256_DIGITS: usize = 64;

/// How much of a file is sent at once.
const CHUNK: usize = 256 << 10;

/// Held while an upload becomes an image or is forgotten: the same bytes may have come twice, and must not go
/// between another's look at them and its entry in the catalogue.
static REGISTERING: Mutex<()> = Mutex::const_new(());

pub async fn upload(State(backend): State<Shared>, body: Bytes) -> Answer<(StatusCode, Json<StagedFile>)> {
    let bytes = body.into_data_stream().map_err(std::io::Error::other);
    let file = backend
        .images()
        .put(StreamReader::new(Box::pin(bytes)), None)
        .await
        .map_err(|error| Refused::of_host("upload an image's file", error))?;
    Ok((StatusCode::CREATED, Json(StagedFile { file, host: backend.me().clone() })))
}

/// For the other hosts.
pub async fn download(State(backend): State<Shared>, Path(sha256): Path<String>) -> Answer<Response> {
    let asked = "fetch an image's file";
    let file = here(&backend, &sha256, asked).await?;
    let opened = tokio::fs::File::open(backend.images().path(&file)).await;
    let reader = opened.map_err(|error| Refused::failed(asked, error))?;
    let length = [(header::CONTENT_LENGTH, file.size.0.to_string())];
    Ok((length, Bytes::from_stream(ReaderStream::with_capacity(reader, CHUNK))).into_response())
}

/// A file of this host by its hash.
async fn here(backend: &Shared, sha256: &str, asked: &str) -> Answer<ImageFile> {
    let missing = || {
        let why = format!("host {} has no file {sha256}", backend.me());
        Refused::by_state(asked, why, "upload it to this host first")
    };
    // It becomes part of a path.
    if sha256.len() != SHA256_DIGITS || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(missing());
    }
    let mut file = ImageFile { sha256: sha256.to_owned(), size: model::Bytes(0) };
    let facts = tokio::fs::metadata(backend.images().path(&file)).await.map_err(|_| missing())?;
    file.size = model::Bytes(facts.len());
    Ok(file)
}

pub async fn register(
    State(backend): State<Shared>,
    Body(request): Body<RegisterImage>,
) -> Answer<(StatusCode, Json<ImageView>)> {
    let asked = format!("import the image '{}'", request.name);
    let files = [Some(request.disk.clone()), request.kernel.clone(), request.initrd.clone()];
    let _one_at_a_time = REGISTERING.lock().await;
    let entered = enter(&backend, request, &asked).await;
    // Whatever else went wrong may be mended by asking again, or may have happened after all.
    if entered.as_ref().is_err_and(|refused| refused.0.kind == ProblemKind::Refused) {
        for sha256 in files.into_iter().flatten() {
            forget_upload(&backend, &sha256, &asked).await;
        }
    }
    Ok((StatusCode::CREATED, Json(entered?)))
}

async fn enter(backend: &Shared, request: RegisterImage, asked: &str) -> Answer<ImageView> {
    check_new(backend.state().read().view(), &request.name, asked)?;
    let image = image_of(backend, request, asked).await?;
    let draft = |cache: &Cache| {
        check_new(cache.view(), &image.name, asked)?;
        let mut txn = cache.txn();
        txn.create(&image);
        commit::built(&mut txn, asked)
    };
    let there = |view: &ClusterView| view.images.get(&image.name) == Some(&image);
    commit::change(&**backend, asked, draft, there).await?;
    Ok(ImageView::of(backend.state().read().view(), &image))
}

/// Removes a file of an import that came to nothing, unless other images have it too.
async fn forget_upload(backend: &Shared, sha256: &str, asked: &str) {
    let Ok(file) = here(backend, sha256, asked).await else { return };
    let needed = backend.state().read().view().images.values().any(|image| image.files().any(|f| *f == file));
    let path = backend.images().path(&file);
    if !needed && let Err(error) = tokio::fs::remove_file(&path).await {
        tracing::warn!(path = %path.display(), %error, "a file that nobody needs cannot be removed");
    }
}

fn check_new(view: &ClusterView, name: &ImageName, asked: &str) -> Answer<()> {
    if view.images.contains_key(name) {
        return Err(Refused::by_state(
            asked,
            "an image of that name exists",
            "choose another name, or delete it",
        ));
    }
    Ok(())
}

async fn image_of(backend: &Shared, request: RegisterImage, asked: &str) -> Answer<Image> {
    if request.kernel.is_none() && (request.initrd.is_some() || request.kernel_command_line.is_some()) {
        let why = "it has an initial RAM disk or a kernel command line, and no kernel";
        return Err(Refused::invalid(asked, why, "give it a kernel, or leave those away"));
    }
    let disk = here(backend, &request.disk, asked).await?;
    let kernel = optional(backend, request.kernel.as_deref(), asked).await?;
    let initrd = optional(backend, request.initrd.as_deref(), asked).await?;
    let seen = inspect(&backend.images().path(&disk)).await.map_err(|error| match error {
        NotAnImage::Unfit { why, instead } => Refused::by_state(asked, why, instead),
        NotAnImage::Unknown(error) => Refused::of_host(asked, error),
    })?;
    Ok(Image {
        name: request.name,
        description: request.description,
        disk,
        format: seen.format,
        virtual_size: seen.virtual_size,
        kernel,
        initrd,
        kernel_command_line: request.kernel_command_line,
        imported_at: Timestamp::now(),
        imported_on: backend.me().clone(),
    })
}

async fn optional(backend: &Shared, sha256: Option<&str>, asked: &str) -> Answer<Option<ImageFile>> {
    match sha256 {
        Some(sha256) => here(backend, sha256, asked).await.map(Some),
        None => Ok(None),
    }
}

/// Has this very host make an image.
pub async fn build(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(BuildImage { recipe }): Body<BuildImage>,
) -> Answer<(StatusCode, Json<JobView>)> {
    let image: ImageName = named(&name, "image")?;
    let asked = format!("build the image '{image}'");
    let mut job = commit::new_job(JobKind::BuildImage { image: image.clone(), recipe }, &caller);
    job.runner = Some(backend.me().clone());
    let view = commit::start_job(&backend, &asked, &job, |cache, _| {
        let view = cache.view();
        check_new(view, &image, &asked)?;
        let ended = |id| view.job_reports.get(id).is_some_and(|report| report.state.is_terminal());
        let building =
            |kind: &JobKind| matches!(kind, JobKind::BuildImage { image: other, .. } if *other == image);
        if let Some(other) = view.jobs.values().find(|job| building(&job.kind) && !ended(&job.id)) {
            let instead = format!("watch that with `kennel job watch {}`", other.id);
            return Err(Refused::by_state(&asked, "it is being built already", instead));
        }
        Ok(())
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

pub async fn delete(
    State(backend): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Json<serde_json::Value>> {
    let name: ImageName = named(&name, "image")?;
    let asked = format!("delete the image '{name}'");
    let draft = |cache: &Cache| {
        let view = cache.view();
        if !view.images.contains_key(&name) {
            return Err(Refused::not_found(&asked, "image", &name));
        }
        let needing = view.guests.values().filter(|guest| needs(view, guest, &name));
        let guests: Vec<_> = needing.map(|guest| guest.name.as_str()).collect();
        if !guests.is_empty() {
            let why = format!("guests boot from it or are being made from it: {}", guests.join(", "));
            return Err(Refused::by_state(&asked, why, "delete those first"));
        }
        let mut txn = cache.txn();
        txn.delete(&keys::image(&name));
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| !view.images.contains_key(&name)).await?;
    Ok(Json(serde_json::json!({})))
}

/// A volume that has been made needs its image no more.
fn needs(view: &ClusterView, guest: &GuestSpec, image: &ImageName) -> bool {
    let unmade = |disk: &&model::DiskSpec| !view.in_sync.contains_key(&disk.volume);
    guest.boot == BootFrom::Image(image.clone())
        || guest.disks.iter().filter(unmade).any(|disk| disk.image.as_ref() == Some(image))
}
