//! Names the shared library for the dynamic linker, so that programs ask for the version that they were built with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libservecast_router.so.0");
    }
}
