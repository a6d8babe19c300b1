//! `kenneld`: makes one host part of a cluster.

fn main() -> std::process::ExitCode {
    daemon::main()
}
