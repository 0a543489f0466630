// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup confirm`: reproducers on a real kernel, beside the model.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use gup_core::history::{Base, Kernel};

use super::replay::read;
use super::{Failure, Outcome, Verdict, quoted, root};
use crate::exec::{State, Trace};
use crate::on_kernel::compare::{
    Difference, NOT_COMPARED, answer_text, compare, model, outcome_text,
};
use crate::on_kernel::express::{
    Version, needs_module, needs_module_for, not_expressible, not_expressible_in, scale,
};
use crate::on_kernel::machine::{Guest, GuestRun};
use crate::on_kernel::parts::{Choice, compile, gather};
use crate::on_kernel::program::difference;
use crate::on_kernel::table::page_rows;
use crate::repro::Reproducer;
use crate::repro::c::{NotExpressible, Program, program};
use crate::repro::report::{kernel_text, wrap};
use crate::scenario::Op;

/// Replays scenarios on a real kernel in a QEMU guest, beside the model.
#[derive(Args, Debug)]
#[command(after_help = "\
The kernel is Debian's newest cloud image of the series; it is downloaded
once and never installed. Our module is built for it; where that cannot be
done, io_uring and vmsplice(2) make the calls that they can, and what is not
compared is said. Exit status 1: the finding happens there, or the kernel
does what no model does.

Examples:
  cargo gup confirm gup-out/finding-1/reproducer.gup
  cargo gup confirm --brief fuzz/seeds fuzz/regressions
  cargo gup confirm --vmlinux linux/vmlinux --headers linux finding.gup")]
pub struct Confirm {
    /// Reproducers (.gup), folders of them, or raw inputs of cargo fuzz
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    machine: OnKernel,
    /// Leave out the pages, op by op
    #[arg(long)]
    brief: bool,
    /// Also run the C program of `report --c`, which must come to the same
    #[arg(long)]
    c: bool,
    /// Do without the module
    #[arg(long)]
    no_module: bool,
}

/// The series of the newest base.
pub(super) const SERIES: &str = "6.12";

/// Which kernel runs in the guest.
#[derive(Args, Debug)]
pub(super) struct OnKernel {
    /// A series of Debian's cloud images
    #[arg(long, default_value = SERIES, value_name = "SERIES")]
    kernel_image: String,
    /// A kernel of one's own: bzImage or vmlinux
    #[arg(long, value_name = "FILE", conflicts_with = "kernel_image")]
    vmlinux: Option<PathBuf>,
    /// The folder that its modules are built against: its build folder
    #[arg(long, value_name = "FOLDER", requires = "vmlinux")]
    headers: Option<PathBuf>,
}

impl OnKernel {
    /// Gets a guest ready. It boots when it is first needed.
    pub(super) fn guest(&self, module: bool) -> Result<(Guest, Version), Failure> {
        let choice = match &self.vmlinux {
            Some(image) => Choice::Own { image: image.clone(), headers: self.headers.clone() },
            None => Choice::Debian(self.kernel_image.clone()),
        };
        let parts = gather(&root()?, &choice, module)?;
        let version = Version::of(&parts.release).ok_or_else(|| {
            let message = format!("what version is a kernel {}?", parts.release);
            Failure::new(message, "cargo gup confirm --help")
        })?;
        Ok((Guest::new(parts)?, version))
    }
}

/// The model of a kernel: with every fix, where its base is an older one.
pub(super) fn beside(version: Version) -> Kernel {
    match version.base() {
        Base::V6_12 => Kernel::released(Base::V6_12),
        base => Kernel::fixed(base),
    }
}

/// The files, and the reproducers in the folders among them.
fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let next = format!("ls {}", quoted(path));
        let entries = fs::read_dir(path)
            .and_then(|dir| dir.map(|e| Ok(e?.path())).collect::<Result<Vec<_>, _>>())
            .map_err(|e| Failure::new(format!("{}: {e}", path.display()), &next))?;
        let gup = |p: &PathBuf| p.extension().is_some_and(|e| e == "gup");
        let mut found: Vec<PathBuf> = entries.into_iter().filter(gup).collect();
        if found.is_empty() {
            return Err(Failure::new(format!("{}: no reproducers in it", path.display()), next));
        }
        found.sort();
        all.extend(found);
    }
    Ok(all)
}

/// What became of a file, and whether that is a violation.
struct Confirmed {
    text: String,
    bad: bool,
    /// Whether the finding happens, if the run says so.
    happens: Option<bool>,
}

impl Confirmed {
    fn new(text: String, bad: bool) -> Self {
        Confirmed { text, bad, happens: None }
    }
}

/// The C program of a reproducer, or why it has none.
type InC = Result<Program, String>;

impl Confirm {
    pub(super) fn run(self) -> Outcome {
        let start = Instant::now();
        let paths = expand(&self.files)?;
        let files: Result<Vec<_>, _> = paths.iter().map(|f| read(f, None)).collect();
        let files = files?;
        let (mut guest, version) = self.machine.guest(!self.no_module)?;
        if let Some(Failure { message, next }) = guest.no_module() {
            print!("{}", wrap(message, "WITHOUT THE MODULE: ", "  "));
            println!("next: {next}");
            println!("{}", wrap(NOT_COMPARED, "Not compared: ", "  "));
        }
        let programs = if self.c { bring_programs(&mut guest, &files)? } else { Vec::new() };
        let mut all = Vec::new();
        for (i, (path, r)) in paths.iter().zip(&files).enumerate() {
            println!("{}, on {}\n", path.display(), guest.release());
            let program = programs.get(i).map(|p| (name(i), p));
            let confirmed = self.confirm(&mut guest, version, r, program)?;
            print!("\n{}\n", wrap(&confirmed.text, "", "  "));
            all.push((path.display().to_string(), confirmed));
        }
        if all.len() > 1 {
            // Where they are seen: at the end.
            all.sort_by_key(|(_, confirmed)| confirmed.bad);
            for (path, confirmed) in &all {
                print!("{}", wrap(&confirmed.text, &format!("{path}: "), "    "));
            }
        }
        let (boots, booting) = guest.boots();
        let (total, booting) = (start.elapsed().as_secs_f64(), booting.as_secs_f64());
        println!("{total:.1} s, {booting:.1} s of it for {boots} boots");
        let bad = all.iter().filter(|(_, c)| c.bad).count();
        if bad > 0 {
            println!("VIOLATED: {bad} of {}", all.len());
        }
        Ok(if bad > 0 { Verdict::Violated } else { Verdict::Held })
    }

    fn confirm(
        &self,
        guest: &mut Guest,
        version: Version,
        r: &Reproducer,
        program: Option<(String, &InC)>,
    ) -> Result<Confirmed, Failure> {
        let ops = r.ops();
        let (scale, module) = (scale(&ops), guest.no_module().is_none());
        let lacks = |op: &Op| needs_module(op, scale).filter(|_| !module);
        let mut why = None;
        for (i, op) in ops.iter().enumerate() {
            if let Some(reason) = not_expressible(op, version, scale).or_else(|| lacks(op)) {
                println!("{:>2} {op}", i + 1);
                print!("{}", wrap(reason, "     confirm: not expressible: ", "       "));
                why = why.or(Some(format!("not expressible: op {}: {reason}", i + 1)));
            }
        }
        if let Some(text) = why {
            return Ok(Confirmed::new(text, false));
        }
        let base = beside(version);
        let trace = |kernel| model(kernel, &ops);
        let (ours, theirs) = (trace(r.kernel), trace(base));
        let mut before = &State::default();
        for (i, line) in theirs.lines.iter().enumerate() {
            let lines = ours.lines.get(i).into_iter().chain([line]).filter(|_| !module);
            let lacks = || lines.filter_map(needs_module_for).next();
            if let Some(reason) = not_expressible_in(&line.op, before).or_else(lacks) {
                let text = format!("not expressible: op {}: {reason}", i + 1);
                println!("{:>2} {}", i + 1, line.op);
                print!("{}", wrap(&text, "     confirm: ", "       "));
                return Ok(Confirmed::new(text, false));
            }
            before = &line.state;
        }
        let run = guest.run(&ops, scale)?;
        self.print(r.kernel, &ours, base, &theirs, &run, scale);
        let from_ours = compare(r.kernel, &ours, &run, scale);
        let from_base = compare(base, &theirs, &run, scale);
        let fixed = Kernel::fixed(base.base());
        let from_fixed = compare(fixed, &trace(fixed), &run, scale);
        let sides = [&from_ours[..], &from_base, &from_fixed];
        let mut confirmed = verdict(r.kernel, &ours, base, sides, &run);
        if !module {
            confirmed.text.push_str("; compared without the module");
        }
        match program {
            Some((name, Ok(program))) => also_in_c(&mut confirmed, guest, &run, &name, program)?,
            Some((_, Err(why))) => confirmed.text.push_str(&format!("; no C program: {why}")),
            None => {}
        }
        Ok(confirmed)
    }

    /// Op by op: what both models and the kernel answer, and the pages.
    fn print(
        &self,
        kernel: Kernel,
        ours: &Trace,
        base: Kernel,
        beside: &Trace,
        run: &GuestRun,
        scale: u32,
    ) {
        let names = [kernel_text(kernel), kernel_text(base), "the kernel".into()];
        let width = names.iter().map(String::len).max().unwrap_or(0);
        for (i, ran) in run.ops.iter().enumerate() {
            let line = ours.lines.get(i).or(beside.lines.get(i));
            let Some(line) = line else { return };
            let model = |t: &Trace| t.lines.get(i).map(|l| outcome_text(l.outcome));
            let answers = [model(ours), model(beside), Some(answer_text(&ran.answer, scale))];
            let all_same = answers.iter().flatten().all(|a| Some(a) == answers[2].as_ref());
            let one = if all_same { answers[2].clone().unwrap_or_default() } else { String::new() };
            print!("{}", wrap(&format!("{} {one}", line.op), &format!("{:>2} ", i + 1), "       "));
            if !all_same {
                for (name, answer) in names.iter().zip(&answers) {
                    let answer = answer.as_deref().unwrap_or("(not reached)");
                    println!("     {name:width$}  {answer}");
                }
            }
            ran.kernel
                .iter()
                .for_each(|text| print!("{}", wrap(text, "     console: ", "       ")));
            let before = i.checked_sub(1).and_then(|i| run.ops.get(i));
            if let Some(line) = beside.lines.get(i).filter(|_| !self.brief) {
                print!("{}", page_rows(line, before, ran, scale, !run.no_module));
            }
        }
        if let Some(trouble) = &run.trouble {
            println!("     the guest {}:\n{}", trouble.name(), trouble.console());
        }
    }
}

/// Compiles what can be said in C and gives it to the guest.
fn bring_programs(guest: &mut Guest, files: &[Reproducer]) -> Result<Vec<InC>, Failure> {
    let module = guest.no_module().is_none();
    let programs: Vec<InC> = files.iter().map(|r| in_c(r, module)).collect();
    let there = programs.iter().enumerate().filter_map(|(i, p)| Some((i, p.as_ref().ok()?)));
    let compiled: Result<Vec<_>, _> =
        there.map(|(i, p)| Ok((name(i), compile(&p.text)?))).collect();
    guest.bring(&compiled?)?;
    Ok(programs)
}

fn in_c(r: &Reproducer, module: bool) -> InC {
    match program(r) {
        Ok(program) if program.module && !module => Err("it would need the module".into()),
        Ok(program) => Ok(program),
        Err(NotExpressible(op, why)) => Err(format!("op {}: {why}", op + 1)),
    }
}

/// What a program is called in the guest.
fn name(i: usize) -> String {
    format!("reproducer-{i}")
}

/// Runs the program of a scenario that has just run.
fn also_in_c(
    confirmed: &mut Confirmed,
    guest: &mut Guest,
    scenario: &GuestRun,
    name: &str,
    program: &Program,
) -> Result<(), Failure> {
    let run = guest.exec(name)?;
    let by = if program.module { "the module" } else { "io_uring" };
    let tells = program.tells.as_deref().unwrap_or("nothing it can see");
    println!("\nThe C program, by {by}; what tells: {tells}");
    run.printed.iter().for_each(|line| print!("{}", wrap(line, "     ", "       ")));
    let happens = confirmed.happens.filter(|_| program.tells.is_some());
    match difference(&run, scenario, happens) {
        None => confirmed.text.push_str("; the C program, too"),
        Some(what) => {
            confirmed.text.push_str(&format!("; THE C PROGRAM DIFFERS: {what}"));
            confirmed.bad = true;
        }
    }
    Ok(())
}

/// What the comparison with the models says: with ours, with that of the base
/// and with that of the base with every fix.
fn verdict(
    kernel: Kernel,
    ours: &Trace,
    base: Kernel,
    [from_ours, from_base, from_fixed]: [&[Difference]; 3],
    run: &GuestRun,
) -> Confirmed {
    let (ours_text, base_text) = (kernel_text(kernel), kernel_text(base));
    if let Some(trouble) = &run.trouble {
        let text = format!("the guest {} in op {}", trouble.name(), run.ops.len() + 1);
        return Confirmed::new(text, true);
    }
    if from_ours.is_empty()
        && let Some(f) = &ours.finding
    {
        let at = format!("{} in {}()", f.oracle, f.function);
        if !(from_base.is_empty() && from_fixed.is_empty()) {
            let text = format!("happens: the kernel does as {ours_text}, which violates {at}");
            return Confirmed { happens: Some(true), ..Confirmed::new(text, true) };
        }
        let text = format!("cannot tell: {at} does not show in what was compared");
        return Confirmed::new(text, false);
    }
    if from_base.is_empty() {
        let text = match &ours.finding {
            Some(_) => format!("does not happen: the kernel does as {base_text}"),
            None => format!("agrees with {base_text}"),
        };
        let happens = ours.finding.as_ref().map(|_| false);
        return Confirmed { happens, ..Confirmed::new(text, false) };
    }
    if from_ours.is_empty() {
        return Confirmed::new(format!("agrees with {ours_text}"), false);
    }
    let first = &from_base[0];
    let text = format!("differs from {base_text} after op {}: {first}", first.op + 1);
    Confirmed::new(text, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_the_reproducers_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        assert!(expand(&[dir.path().into()]).unwrap_err().message.contains("no reproducers"));
        for name in ["b.gup", "a.gup", "README"] {
            fs::write(file(name), "").unwrap();
        }
        let all = expand(&["raw".into(), dir.path().into()]).unwrap();
        assert_eq!(all, ["raw".into(), file("a.gup"), file("b.gup")]);
    }
}
