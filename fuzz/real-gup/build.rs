// SPDX-License-Identifier: GPL-2.0-only
//! Compiles mm/gup.c of a kernel tree against the shim in `c/`.
//!
//! * [`tree`] finds the tree and takes out of it the few files needed.
//! * [`cut`] takes single functions out of those files, by name.
//! * [`header`] writes what the model says in Rust down as C macros.

#[path = "build/cut.rs"]
mod cut;
#[path = "build/find.rs"]
mod find;
#[path = "build/header.rs"]
mod header;
#[path = "build/tree.rs"]
mod tree;

use std::path::{Path, PathBuf};
use std::{env, fs};

use tree::Tree;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-env-changed=LINUX");
    println!("cargo::rerun-if-env-changed={COVERAGE}");
    println!("cargo::rerun-if-env-changed={SANITIZE}");
    if env::var_os("CARGO_FEATURE_C").is_none() {
        return;
    }
    if let Err(message) = build() {
        println!("cargo::error={message}");
    }
}

/// Set to anything: gup.c is built for gcov. The final link wants
/// `RUSTFLAGS=-Clink-arg=--coverage`.
const COVERAGE: &str = "GUP_C_COVERAGE";

/// Set to anything: the C stops at undefined behaviour and at each access to
/// memory that is not its own.
const SANITIZE: &str = "GUP_C_SANITIZE";
/// Where the shadow memory of libasan lies on x86-64.
const SHADOW_OFFSET: &str = "-fasan-shadow-offset=0x7fff8000";

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let tree = Tree::find(&target_dir(&out))?;
    let gup_c = tree.file("mm/gup.c");
    let text = read(&gup_c)?;
    let include = out.join("include");
    let _ = fs::remove_dir_all(&include);
    stand_ins(&text, &include)?;
    let policy = cut::policy(&tree)?;
    let kernel = format!("{text}\n{policy}");
    write(&include.join("model.h"), &header::model(&kernel, &tree))?;
    write(&include.join("policy.h"), &policy)?;
    compile(&gup_c, &include, &tree).map_err(|e| {
        // What the compiler said stands above as warnings.
        let shown = gup_c.display();
        format!("{shown} does not compile against fuzz/real-gup/c/shim.h: {e}")
    })
}

/// The folder that holds `OUT_DIR` (target/PROFILE/build/NAME/out): what is
/// taken out of a tarball is kept there for the next build.
fn target_dir(out: &Path) -> PathBuf {
    out.ancestors().nth(4).unwrap_or(out).to_path_buf()
}

/// An empty file for each header that gup.c includes: all it needs comes
/// from shim.h, which is included first. The C library's linux/errno.h stays
/// as it is, because its errno.h includes it.
fn stand_ins(text: &str, include: &Path) -> Result<(), String> {
    let names = text.lines().filter_map(|l| l.strip_prefix("#include <")?.split('>').next());
    for name in names.filter(|&name| name != "linux/errno.h") {
        write(&include.join(name), "")?;
    }
    Ok(())
}

fn compile(gup_c: &Path, include: &Path, tree: &Tree) -> Result<(), cc::Error> {
    // gup.c is compiled without optimisation, so that an access in the text
    // is an access in the program: the hooks in shim.c turn each load of a
    // page-table entry into the model's step.
    let mut gup = shim(include, tree);
    gup.opt_level(0).file(gup_c).flag("-include").flag("shim.h");
    // The guard of mm/internal.h, which gup.c includes by a relative path.
    gup.define("__MM_INTERNAL_H", None);
    gup.flag("-fsanitize=kernel-address")
        .flag("--param=asan-instrumentation-with-call-threshold=0");
    gup.flag("--param=asan-globals=0");
    if env::var_os(COVERAGE).is_some() {
        // Threads count in the same places.
        gup.flag("--coverage").flag("-fprofile-update=atomic");
    }
    let mut own = shim(include, tree);
    if env::var_os(SANITIZE).is_some() {
        // The hooks ask libasan; redzones of gup.c's stack are in its shadow.
        gup.flag("--param=asan-stack=1").flag(SHADOW_OFFSET);
        gup.flag("-fsanitize=undefined").flag("-fno-sanitize-recover");
        own.flag("-fsanitize=address,undefined").flag("-fno-sanitize-recover");
        own.define("SHIM_SANITIZE", None);
        link_sanitizers(&own)?;
    } else {
        gup.flag("--param=asan-stack=0");
    }
    let gup = gup.try_compile_intermediates()?;
    own.opt_level(2).file("c/shim.c").objects(gup).try_compile("real_gup")
}

/// The libraries of the compiler that compiles the C.
fn link_sanitizers(cc: &cc::Build) -> Result<(), cc::Error> {
    for name in ["asan", "ubsan"] {
        let mut ask = cc.try_get_compiler()?.to_command();
        ask.arg(format!("-print-file-name=lib{name}.so"));
        let path = ask.output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string());
        if let Some(dir) = path.ok().as_deref().map(Path::new).and_then(Path::parent) {
            println!("cargo::rustc-link-search=native={}", dir.display());
        }
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    Ok(())
}

/// What both C files are compiled with. Unused code of gup.c is the kernel's
/// business, so warnings are off for it; unwind tables let a panic of the
/// model pass through the C.
fn shim(include: &Path, tree: &Tree) -> cc::Build {
    let mut b = cc::Build::new();
    b.include(include).include("c").define("KVER", tree.kver().to_string().as_str());
    b.std("gnu11").warnings(false).debug(true);
    for flag in ["-fwrapv", "-fno-strict-aliasing", "-fexceptions", "-ftls-model=initial-exec"] {
        b.flag(flag);
    }
    b
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(path, text))
        .map_err(|e| format!("{}: {e}", path.display()))
}
