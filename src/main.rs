//! The `columba` program: see [`columba::cli`].

fn main() -> std::process::ExitCode {
    columba::cli::run()
}
