//! `kennel image`: the catalogue of disks that guests are made from.

use std::path::PathBuf;

use api::{ImageView, ImportImage};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use model::{Bytes, ImageName, Recipe};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell};
use crate::progress::{self, Transfer};
use crate::{terminal, times};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All images
    #[command(after_help = "Example:
  kennel image list")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one image
    #[command(after_help = "Example:
  kennel image show tiny")]
    Show { image: ImageName },
    /// Make an image from Debian's packages, on the host that answers
    #[command(after_help = "Examples:
  kennel image build tiny                   a few MB, boots in seconds
  kennel image build debian                 Debian 13 with cloud-init and sshd
  kennel image build debian --name trixie")]
    Build {
        recipe: RecipeName,
        /// What it is called in the catalogue [default: as the recipe]
        #[arg(long)]
        name: Option<ImageName>,
        /// Do not wait; print the job's id
        #[arg(long)]
        no_wait: bool,
    },
    /// Bring a qcow2 or raw file into the catalogue
    #[command(after_help = "Examples:
  kennel image import debian13 debian-13-generic-amd64.qcow2 --description 'Debian 13'
  kennel image import own disk.raw --kernel vmlinuz --initrd initrd.img --command-line 'console=ttyS0'")]
    Import(ImportArguments),
    /// Remove an image from the catalogue; guests made from it keep their disks
    #[command(after_help = "Example:
  kennel image delete debian13 --yes")]
    Delete {
        image: ImageName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct ImportArguments {
    name: ImageName,
    /// The disk, on this machine
    file: PathBuf,
    /// What people should know of it
    #[arg(long, default_value = "")]
    description: String,
    /// A kernel, for a disk without a boot loader
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk that belongs to the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// What the kernel is told
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    command_line: Option<String>,
}

/// An image that Kennel can make by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecipeName {
    /// Busybox, a cloud kernel and the guest agent
    Tiny,
    /// Debian 13 with systemd, cloud-init, sshd and the guest agent
    Debian,
}

impl RecipeName {
    fn recipe(self) -> (Recipe, &'static str) {
        match self {
            RecipeName::Tiny => (Recipe::Tiny, "tiny"),
            RecipeName::Debian => (Recipe::Debian, "debian"),
        }
    }
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::List { watch: true } => listing::watch::<ImageView>(context, client.watch_images()).await,
        Command::List { watch: false } => listing::print(context, &client.images().await?),
        Command::Show { image } => {
            let view = client.image(&image).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now()).render(coloured))
        }
        Command::Build { recipe, name, no_wait } => {
            let (recipe, default) = recipe.recipe();
            let name = match name {
                Some(name) => name,
                None => {
                    default.parse().map_err(|why| Failure::usage("build the image", why, "give a --name"))?
                }
            };
            let job = client.build_image(&name, recipe).await?;
            progress::finish(context, &client, job, no_wait).await
        }
        Command::Import(arguments) => import(context, &client, arguments).await,
        Command::Delete { image, yes } => {
            let consequence = format!(
                "The image {image} goes from the catalogue and from every host. Guests that were made from it keep their disks."
            );
            terminal::confirm(&format!("delete the image '{image}'"), &[consequence], yes)?;
            client.delete_image(&image).await?;
            context
                .output
                .result(&serde_json::json!({ "deleted": image }), |_| format!("The image {image} is gone.\n"))
        }
    }
}

async fn import(context: &Context, client: &api::Client, arguments: ImportArguments) -> Result<(), Failure> {
    let transfer = Transfer::new(format!("import {}", arguments.name));
    let shown = transfer.clone();
    let request = ImportImage {
        name: arguments.name,
        description: arguments.description,
        disk: arguments.file,
        kernel: arguments.kernel,
        initrd: arguments.initrd,
        kernel_command_line: arguments.command_line,
    };
    let imported = client.import_image(&request, move |sent, total| shown.show(sent, total)).await;
    transfer.clear();
    let view = imported?;
    context.output.result(&view, |_| {
        format!("The image {} is in the catalogue ({}, {}).\n", view.name, view.image.format, stored(&view))
    })
}

/// What an image takes on each host.
fn stored(view: &ImageView) -> Bytes {
    view.image.files().map(|file| file.size).sum()
}

fn hosts(view: &ImageView) -> Option<String> {
    let names: Vec<_> = view.present_on.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

impl Listed for ImageView {
    const HEAD: &'static [&'static str] =
        &["NAME", "FORMAT", "STORED", "DISK", "IMPORTED", "ON", "DESCRIPTION"];
    const NOTHING: &'static str = "There is no image. `kennel image build tiny` makes one.";

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(&self.name),
            Cell::from(self.image.format),
            Cell::from(stored(self)),
            Cell::from(self.image.virtual_size),
            Cell::from(times::ago(self.image.imported_at, now)),
            Cell::maybe(hosts(self)),
            Cell::from(&self.image.description),
        ]
    }
}

fn show(view: &ImageView, now: Timestamp) -> Block {
    let image = &view.image;
    let file = |file: &model::ImageFile| format!("{}, sha256 {}", file.size, file.sha256);
    Block::new()
        .line("Name", &view.name)
        .line("Description", &image.description)
        .line("Format", image.format)
        .line("Guests see", image.virtual_size)
        .line("Disk", file(&image.disk))
        .maybe("Kernel", image.kernel.as_ref().map(file))
        .maybe("Initial RAM disk", image.initrd.as_ref().map(file))
        .maybe("Command line", image.kernel_command_line.as_ref())
        .line("Imported", format!("{} on {}", times::at_and_ago(image.imported_at, now), image.imported_on))
        .line("Present on", Cell::maybe(hosts(view)))
}
