//! Brings an image into the cluster.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use model::{Bytes, ImageFile, ImageName};
use reqwest::{Body, header};
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::{Ask, Client, ClientError, Failure, accept};
use crate::{ImageView, RegisterImage, StagedFile};

/// An image's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportImage {
    pub name: ImageName,
    pub description: String,
    /// qcow2 or raw.
    pub disk: PathBuf,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub kernel_command_line: Option<String>,
}

/// How much is read from a file at once.
const CHUNK: usize = 256 << 10;

type Progress = Arc<Mutex<dyn FnMut(u64) + Send>>;

impl Client {
    /// Uploads the files and enters the image in the catalogue. `progress` gets the bytes sent and those to
    /// be sent in all.
    pub async fn import_image(
        &self,
        image: &ImportImage,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<ImageView, ClientError> {
        let asked = format!("import the image '{}'", image.name);
        let paths = [Some(&image.disk), image.kernel.as_ref(), image.initrd.as_ref()];
        let mut files = Vec::new();
        for path in paths.into_iter().flatten() {
            files.push((path, size_of(path, &asked).await?));
        }
        let total = files.iter().map(|(_, size)| size).sum();
        let mut sent = 0;
        let progress: Progress = Arc::new(Mutex::new(move |bytes: u64| {
            sent += bytes;
            progress(sent, total);
        }));
        // All of it must go to one host: the one that answers now.
        let status = self.cluster_status().await?;
        let Some(index) = self.order().next() else {
            return Err(ClientError::Local(format!("cannot {asked}: {} has no endpoint", status.name)));
        };
        let mut staged = Vec::new();
        for (path, size) in files {
            staged.push(self.upload(index, path, size, &asked, Arc::clone(&progress)).await?.sha256);
        }
        let mut staged = staged.into_iter();
        let register = RegisterImage {
            name: image.name.clone(),
            description: image.description.clone(),
            disk: staged.next().unwrap_or_default(),
            kernel: image.kernel.as_ref().and_then(|_| staged.next()),
            initrd: image.initrd.as_ref().and_then(|_| staged.next()),
            kernel_command_line: image.kernel_command_line.clone(),
        };
        let ask = Ask::post("/v1/images", asked).json(&register)?.endless();
        let response = self.send_to(index, &ask).await.map_err(|failure| self.failed(failure, &ask))?;
        self.read(response, &ask).await
    }

    async fn upload(
        &self,
        index: usize,
        path: &Path,
        size: u64,
        asked: &str,
        progress: Progress,
    ) -> Result<ImageFile, ClientError> {
        let file = tokio::fs::File::open(path).await.map_err(|error| unreadable(asked, path, &error))?;
        let hash = Arc::new(Mutex::new(Sha256::new()));
        let hashing = Arc::clone(&hash);
        let chunks = ReaderStream::with_capacity(file, CHUNK).inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                hashing.lock().unwrap_or_else(PoisonError::into_inner).update(chunk);
                progress.lock().unwrap_or_else(PoisonError::into_inner)(chunk.len() as u64);
            }
        });
        let ask = Ask::post("/v1/image-files", asked).endless();
        let request = self
            .inner
            .http
            .post(self.url(index, &ask))
            .headers(self.headers())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(Body::wrap_stream(chunks));
        let answer = match request.send().await {
            Ok(response) => accept(response, asked).await,
            Err(error) => Err(Failure::from_reqwest(error)),
        };
        let response = answer.map_err(|failure| self.failed(failure, &ask))?;
        let staged: StagedFile = self.read(response, &ask).await?;
        let digest = hash.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize();
        let expected = ImageFile { sha256: hex(&digest), size: Bytes(size) };
        if staged.file == expected {
            return Ok(staged.file);
        }
        Err(ClientError::Local(format!(
            "cannot {asked}: {} arrived changed on {}; was it written to meanwhile? import it again",
            path.display(),
            staged.host
        )))
    }

    fn failed(&self, failure: Failure, ask: &Ask) -> ClientError {
        match failure {
            Failure::NoConnection(why) | Failure::BrokeOff(why) => self.interrupted(&ask.asked, why),
            Failure::Refused(problem) => ClientError::Refused(problem),
        }
    }
}

async fn size_of(path: &Path, asked: &str) -> Result<u64, ClientError> {
    let facts = tokio::fs::metadata(path).await.map_err(|error| unreadable(asked, path, &error))?;
    if facts.is_file() {
        Ok(facts.len())
    } else {
        Err(ClientError::Local(format!(
            "cannot {asked}: {} is not a file; name a qcow2 or raw file",
            path.display()
        )))
    }
}

fn unreadable(asked: &str, path: &Path, error: &std::io::Error) -> ClientError {
    ClientError::Local(format!(
        "cannot {asked}: {} cannot be read: {error}; name a file that you may read",
        path.display()
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
