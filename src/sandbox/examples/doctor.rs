//! Prints what a sandbox would be on this machine.

fn main() {
    println!("{:#?}", sandbox::probe(&sandbox::Config::default()));
}
