//! The simulator as a program.

use clap::Parser;
use simulator::flags::Flags;
use simulator::server::Server;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let model = flags.model.clone();
    let server = Server::start(flags).await?;
    println!("{model} is simulated at http://{}", server.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
