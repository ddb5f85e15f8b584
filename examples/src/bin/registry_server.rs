//! An MLflow server: experiments, runs, models and their files, for Python clients and for services that embed the same
//! registry.
//!
//!     cargo run --release --bin registry_server -- --listen 127.0.0.1:5000 --data DIR
//!
//! On a loopback address, whoever reaches it is `local` and may do everything, unless `--tokens` is given. On any other
//! address tokens are asked for. `registry_server token --data DIR --name ana --role contributor` makes one.
//!
//! Webhooks lead to public addresses over TLS; `--webhook-network 10.1.0.0/16` lets them into a network of one's own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mlops_core::auth::token::{NewToken, Tokens};
use mlops_core::auth::{Authenticator, FixedPrincipal};
use mlops_core::store::LocalStore;
use mlops_core::{Principal, Role};
use mlops_registry::SqlRegistry;
use mlops_registry::mlflow::server::MlflowServer;
use mlops_registry::webhooks::{Network, WebhookDispatcher};

/// Serves MLflow's REST contract over a registry in a directory or a PostgreSQL database.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Ask for tokens on a loopback address, too
    #[arg(long)]
    tokens: bool,
    /// A network that webhooks may lead to, though it is not public, and without TLS; may be given more than once
    #[arg(long, value_name = "NETWORK")]
    webhook_network: Vec<Network>,
}

#[derive(Debug, Args)]
struct Place {
    /// Where files are kept, and the database unless --database-url names one
    #[arg(long, value_name = "DIR", default_value = "target/registry")]
    data: PathBuf,
    /// A PostgreSQL database: postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a token and prints it: it is shown this once
    Token {
        #[command(flatten)]
        place: Place,
        /// Whom it speaks as
        #[arg(long)]
        name: String,
        /// What they may do; may be given more than once
        #[arg(long, required = true)]
        role: Vec<RoleName>,
        /// For how many days it holds
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=365))]
        days: u16,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Viewer,
    Contributor,
    Reviewer,
    Deployer,
    Admin,
}

impl RoleName {
    fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Contributor => Role::Contributor,
            Self::Reviewer => Role::Reviewer,
            Self::Deployer => Role::Deployer,
            Self::Admin => Role::Admin,
        }
    }
}

type Failed = Box<dyn std::error::Error>;

impl Place {
    async fn open(&self) -> Result<(SqlRegistry, LocalStore), Failed> {
        std::fs::create_dir_all(&self.data).map_err(|error| format!("cannot make {}: {error}", self.data.display()))?;
        let store = LocalStore::open(self.data.join("store"))?;
        let builder = SqlRegistry::builder().artifacts(store.clone());
        let registry = match &self.database_url {
            Some(url) => builder.open_postgres(url).await?,
            None => builder.open_sqlite(self.data.join("registry.db")).await?,
        };
        Ok((registry, store))
    }
}

async fn token(place: &Place, name: &str, roles: &[RoleName], days: u16) -> Result<(), Failed> {
    let (registry, _) = place.open().await?;
    // Whoever may write to the database makes tokens of any kind; this says who did.
    let root = Principal::new("registry_server").with_role(Role::Admin);
    let mut new = NewToken::new(Duration::from_secs(u64::from(days) * 24 * 3600))
        .speaks_as(name)
        .because("made on the command line");
    for role in roles {
        new = new.role(role.role());
    }
    let (token, _) =
        Tokens::new(registry.clone()).longest(Duration::from_secs(366 * 24 * 3600)).issue(&root, new).await?;
    println!("{}", token.reveal());
    registry.close().await;
    Ok(())
}

async fn serve(place: &Place, listen: SocketAddr, tokens: bool, networks: Vec<Network>) -> Result<(), Failed> {
    let (registry, store) = place.open().await?;
    let webhooks =
        networks.into_iter().fold(WebhookDispatcher::builder(registry.clone()), |to, network| to.allow(network));
    let webhooks = webhooks.build()?;
    let open = listen.ip().is_loopback() && !tokens;
    let edge: Box<dyn Authenticator> = if open {
        Box::new(FixedPrincipal::new(Principal::new("local").with_role(Role::Admin)))
    } else {
        Box::new(Tokens::new(registry.clone()))
    };
    let mut server = MlflowServer::builder(registry.clone(), store).authenticator(edge).webhooks(webhooks.clone());
    if open {
        // A page of another site that runs in a browser on this machine reaches loopback addresses, too.
        server = server.only_hosts(["localhost", "127.0.0.1", "[::1]"]);
    }
    let listener =
        tokio::net::TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, {registry}");
    if open {
        println!("everybody on this machine is `local`, an admin; --tokens asks for tokens");
    } else {
        println!("clients set MLFLOW_TRACKING_TOKEN to what `registry_server token` printed");
    }
    let stop = async {
        // Without a way to be told, it runs until it is killed, and loses nothing by that.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let deliveries = tokio::spawn(async move {
        let Err(error) = webhooks.run().await;
        eprintln!("webhooks are no longer delivered: {}", mlops_core::with_causes(&error));
    });
    axum::serve(listener, server.build().router()).with_graceful_shutdown(stop).await?;
    // A delivery under way is made again, with the same id, by who runs next.
    deliveries.abort();
    registry.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, place, listen, tokens, webhook_network } = Arguments::parse();
    let done = match command {
        Some(Command::Token { place, name, role, days }) => token(&place, &name, &role, days).await,
        None => serve(&place, listen, tokens, webhook_network).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
