//! The catalogue's bytes on this host: every host keeps every image, and fetches what it lacks from a host
//! that has it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::HostError;
use host::image::store::ImageFiles;
use model::{Host, HostName, Image, ImageFile, ImageName};
use tokio::sync::{Mutex, watch};

use crate::peer::PeerClient;
use crate::state::State;

/// Between two tries to fetch what no host could give.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Images {
    me: HostName,
    state: State,
    files: ImageFiles,
    peers: PeerClient,
    /// One fetch at a time: two of the same image would copy it twice.
    fetching: Arc<Mutex<()>>,
    /// Grows when an image has become complete here.
    arrivals: Arc<watch::Sender<u64>>,
}

impl Images {
    pub fn new(me: HostName, state: State, files: ImageFiles, peers: PeerClient) -> Images {
        let arrivals = Arc::new(watch::channel(0).0);
        Images { me, state, files, peers, fetching: Arc::default(), arrivals }
    }

    pub fn files(&self) -> &ImageFiles {
        &self.files
    }

    pub fn path(&self, file: &ImageFile) -> PathBuf {
        self.files.path(file)
    }

    /// Wakes when an image has become complete on this host.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Says that files were added by somebody else.
    pub fn note_arrival(&self) {
        self.arrivals.send_modify(|count| *count += 1);
    }

    /// The image, with all its bytes on this host.
    pub async fn ensure(&self, name: &ImageName) -> Result<Image, HostError> {
        let image = self.state.read().view().images.get(name).cloned();
        let Some(image) = image else {
            return Err(HostError::NotFound(format!("there is no image '{name}' any more")));
        };
        if self.files.has(&image) {
            return Ok(image);
        }
        let _one_at_a_time = self.fetching.lock().await;
        let missing: Vec<ImageFile> =
            image.files().filter(|file| !self.files.has_file(file)).cloned().collect();
        for file in missing {
            self.fetch(name, &file).await?;
        }
        self.note_arrival();
        Ok(image)
    }

    async fn fetch(&self, name: &ImageName, file: &ImageFile) -> Result<(), HostError> {
        let mut last = format!("no host that is online has the image '{name}'");
        for host in self.holders(name) {
            tracing::info!(image = %name, from = %host.name, size = %file.size, "fetching an image's file");
            let fetched = async {
                let client = self.peers.to(&host).map_err(|error| error.to_string())?;
                let bytes = client.image_file(&file.sha256).await.map_err(|error| error.to_string())?;
                self.files.put(bytes, Some(file)).await.map_err(|error| error.to_string())
            };
            match fetched.await {
                Ok(_) => return Ok(()),
                Err(error) => last = format!("cannot fetch the image '{name}' from {}: {error}", host.name),
            }
        }
        Err(HostError::NotFound(last))
    }

    /// Live hosts that may have an image: those that say so first, then the one it was imported on.
    fn holders(&self, name: &ImageName) -> Vec<Host> {
        let cache = self.state.read();
        let view = cache.view();
        let says_so = |host: &HostName| view.host_reports.get(host).is_some_and(|r| r.images.contains(name));
        let origin = view.images.get(name).map(|image| &image.imported_on);
        let mut holders: Vec<&Host> = view
            .hosts
            .values()
            .filter(|host| host.name != self.me && view.is_live(&host.name))
            .filter(|host| says_so(&host.name) || Some(&host.name) == origin)
            .collect();
        holders.sort_by_key(|host| (!says_so(&host.name), &host.name));
        holders.into_iter().cloned().collect()
    }

    /// Fetches whatever the catalogue has and this host lacks, for ever; and removes what it no longer has.
    pub async fn keep(self) {
        let mut changes = self.state.changes();
        let mut known = None;
        loop {
            changes.borrow_and_update();
            let images: Vec<Image> = self.state.read().view().images.values().cloned().collect();
            let missing: Vec<&Image> = images.iter().filter(|image| !self.files.has(image)).collect();
            let mut failed = false;
            for image in &missing {
                if let Err(error) = self.ensure(&image.name).await {
                    tracing::debug!(image = %image.name, %error, "an image is not here yet");
                    failed = true;
                }
            }
            if known.as_ref().is_some_and(|known| *known != images) {
                self.note_arrival();
            }
            known = Some(images);
            let pause = if failed { RETRY_AFTER } else { Duration::MAX };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
