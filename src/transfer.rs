//! `pdlab bench transfer`: either side of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use pdlab_bench::run_dir::RunDir;
use pdlab_bench::transfer::{
    self, Error, Home, Listening, Options, Refusal, Setting, Sites, Wish, listen, table, wire,
};
use pdlab_transport::AgentConfig;
use tokio::net::TcpListener;

use crate::exit::Failure;
use crate::measure::{interruptible_on, program, say, say_json};
use crate::roles::{follow_parent, log_to_stderr};
use crate::transport_args::{DEFAULT_UCX, TransportArgs};

/// Measures, or serves who measures.
pub(crate) fn transfer(options: &Options) -> Result<(), Failure> {
    match options.listen {
        Some(address) => serve(options, address),
        None => measure(options),
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let plan = options.plan().map_err(failure)?;
    let program = program()?;
    let dir = RunDir::create(options.out.as_deref(), "transfer", SystemTime::now())
        .map_err(Failure::environment)?;
    let sites = Sites {
        program,
        connect: options.connect.clone(),
        data_host: options.data_host,
        ucx: options.ucx.clone(),
        threads: options.threads,
        logs: dir.make_dir("logs").map_err(Failure::environment)?,
    };
    let note = |line: &str| {
        if !options.quiet {
            eprintln!("{line}");
        }
    };
    let setting = Setting { sites: &sites, dir: &dir, ceilings: !options.no_ceilings, note: &note };
    let report = interruptible_on(1, async |cancel| {
        transfer::run(&plan, &setting, &cancel).await.map_err(failure)
    })?;
    say(&table(&report, &dir.path().display().to_string()));
    if options.json {
        say_json(&report)?;
    }
    if let Some(reason) = &report.failure {
        eprintln!("error: {reason}");
    }
    match report.exit_code() {
        0 => Ok(()),
        code => Err(Failure::Said(code)),
    }
}

fn serve(options: &Options, address: SocketAddr) -> Result<(), Failure> {
    if options.die_with_parent {
        follow_parent()?;
    }
    log_to_stderr();
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (ucx, data_host) = (options.ucx.clone(), options.data_host);
    let home = Home {
        configure: Arc::new(move |wish| configure(wish, ucx.as_deref())),
        process: rand::random(),
        data_host,
        device: variable("PDLAB_RDMA_DEVICE"),
        gid_index: variable("PDLAB_RDMA_GID_INDEX"),
    };
    interruptible_on(1, async |stop| {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::environment(format!("cannot listen on {address}: {error}; is it this host's?"))
        })?;
        let listening = listener.local_addr().map_err(Failure::environment)?;
        let (pid, protocol) = (std::process::id(), wire::VERSION);
        say_json(&Listening { listening, pid, protocol })?;
        listen(listener, home, options.threads.unwrap_or(1), stop).await;
        Ok(())
    })
}

/// The configuration of an agent. What this host was told about UCX goes before what it is asked.
fn configure(wish: &Wish, ucx: Option<&str>) -> Result<AgentConfig, Refusal> {
    let bad = |problem: String| Refusal::bad_input(problem);
    let choice = wish.transport.parse().map_err(|error| bad(format!("{error}")))?;
    let build = ucx.or(wish.ucx.as_deref()).unwrap_or(DEFAULT_UCX);
    let build = build.parse().map_err(|error| bad(format!("{error}")))?;
    let args = TransportArgs::new(choice, build);
    let config = args.and_then(|args| args.agent(wish.name.clone(), wish.data_host));
    config.map_err(|failure| match failure {
        Failure::BadInput(reason) => Refusal { bad_input: true, reason },
        Failure::Environment(reason) => Refusal { bad_input: false, reason },
        Failure::Said(code) => Refusal { bad_input: false, reason: format!("exit code {code}") },
    })
}

fn failure(error: Error) -> Failure {
    if error.is_bad_input() { Failure::bad_input(error) } else { Failure::environment(error) }
}
