//! Tells the library's sources which checker they are compiled for.

fn main() {
    for checker in ["loom", "shuttle"] {
        if std::env::var_os(format!("CARGO_FEATURE_{}", checker.to_uppercase())).is_some() {
            println!("cargo::rustc-cfg=oarlock_{checker}");
        }
    }
}
