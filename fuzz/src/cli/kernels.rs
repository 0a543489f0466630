// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup kernels`

use clap::Args;
use gup_core::history::{Base, Commit, Defect, Proposal, Reach, Released, Safeguard};
use serde::Serialize;

use super::{Outcome, Verdict, print_json};
use crate::repro::report::wrap;

/// Where the lines go on under a commit.
const INDENT: &str = "               ";

/// Lists the kernels that can be named: bases, defects, proposals.
#[derive(Args, Debug)]
#[command(after_help = "\
A kernel is a base and what is changed in it:
  v5.15                                    as released
  'v5.15 fixed'                            with every fix in this list
  'v5.15 with c36c04c2e132'                with one more fix
  'v5.15 fixed without c24d37322548'       with one fix less
  'v5.15 with proposal:fast-only-flag'     with a change that was proposed
  'v5.15 without safeguard:pte-recheck'    with a statement left out

Examples:
  cargo gup kernels
  cargo gup kernels --json")]
pub struct Kernels {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Table {
    bases: Vec<&'static str>,
    defects: Vec<DefectRow>,
    proposals: Vec<ProposalRow>,
    safeguards: Vec<SafeguardRow>,
}

#[derive(Serialize)]
struct DefectRow {
    slug: &'static str,
    introduced: Option<CommitRow>,
    fixed: Option<CommitRow>,
    bases: Vec<BaseRow>,
    found_by: &'static str,
    /// Why windows do not show it, if they do not.
    only_loom: Option<&'static str>,
    oracles: &'static [&'static str],
    what: &'static str,
}

/// A base that a defect applies to.
#[derive(Serialize)]
struct BaseRow {
    base: &'static str,
    /// Whether the base as released has it.
    open: bool,
}

#[derive(Serialize)]
struct CommitRow {
    id: &'static str,
    subject: &'static str,
    release: &'static str,
}

impl From<Commit> for CommitRow {
    fn from(Commit { id, subject, release }: Commit) -> Self {
        CommitRow { id, subject, release }
    }
}

#[derive(Serialize)]
struct ProposalRow {
    slug: &'static str,
    repairs: &'static str,
    what: &'static str,
}

#[derive(Serialize)]
struct SafeguardRow {
    slug: &'static str,
    what: &'static str,
    bases: Vec<TwinRow>,
}

/// A base whose text has a safeguard, and what finds that it is left out.
#[derive(Serialize)]
struct TwinRow {
    base: &'static str,
    kernel: String,
    found_by: &'static str,
    only_loom: Option<&'static str>,
}

/// What finds it, and why windows do not, if they do not.
fn found_by(reach: Reach) -> (&'static str, Option<&'static str>) {
    match reach {
        Reach::Sequence => ("fuzzing", None),
        Reach::Race => ("fuzzing with windows, loom", None),
        Reach::Loom(why) => ("loom", Some(why)),
    }
}

fn table() -> Table {
    let defect = |d: &Defect| {
        let i = d.info();
        let (found_by, only_loom) = found_by(i.reach);
        DefectRow {
            slug: i.slug,
            introduced: i.introduced.map(Into::into),
            fixed: i.fixed.map(Into::into),
            bases: (i.bases.iter())
                .map(|&(b, r)| BaseRow { base: b.name(), open: r == Released::Open })
                .collect(),
            found_by,
            only_loom,
            oracles: i.oracles,
            what: i.what,
        }
    };
    let proposal = |p: &Proposal| {
        let i = p.info();
        ProposalRow { slug: i.slug, repairs: i.repairs.info().slug, what: i.what }
    };
    let safeguard = |s: &Safeguard| {
        let twin = |&(base, reach): &(Base, Reach)| {
            let (found_by, only_loom) = found_by(reach);
            TwinRow { base: base.name(), kernel: s.twin(base).to_string(), found_by, only_loom }
        };
        let bases = s.reach().iter().map(twin).collect();
        SafeguardRow { slug: s.slug(), what: s.what(), bases }
    };
    Table {
        bases: Base::ALL.iter().map(|b| b.name()).collect(),
        defects: Defect::ALL.iter().map(defect).collect(),
        proposals: Proposal::ALL.iter().map(proposal).collect(),
        safeguards: Safeguard::ALL.iter().map(safeguard).collect(),
    }
}

impl Kernels {
    pub(super) fn run(self) -> Outcome {
        let table = table();
        if self.json {
            print_json(&table);
            return Ok(Verdict::Held);
        }
        println!("Bases: {}\n\nDefects:", table.bases.join(", "));
        for d in table.defects {
            let state =
                |b: &BaseRow| format!("{} in {}", if b.open { "open" } else { "fixed" }, b.base);
            let states: Vec<_> = d.bases.iter().map(state).collect();
            let head = format!("{} ({}): {}", d.slug, states.join(", "), d.what);
            print!("\n{}", wrap(&head, "  ", "  "));
            match d.introduced {
                Some(c) => print_commit("    introduced ", &c),
                None => println!("    introduced before git, or with the code itself"),
            }
            match d.fixed {
                Some(c) => print_commit("    fixed      ", &c),
                None => println!("    fixed      by no commit that is known here"),
            }
            println!("    found by   {}: {}", d.found_by, d.oracles.join(", "));
            if let Some(why) = d.only_loom {
                print!("{}", wrap(why, "    not by windows: ", INDENT));
            }
        }
        println!("\nProposals:");
        for p in table.proposals {
            let head = format!("proposal:{} (for {}): {}", p.slug, p.repairs, p.what);
            print!("\n{}", wrap(&head, "  ", "  "));
        }
        println!("\nSafeguards, of no kernel's history, for the twins of the loom tests:");
        for s in table.safeguards {
            let head = format!("safeguard:{}: {}", s.slug, s.what);
            print!("\n{}", wrap(&head, "  ", "  "));
            for twin in s.bases {
                print!("{}", wrap(&twin.kernel, "    ", "      "));
                println!("      found by {}", twin.found_by);
                if let Some(why) = twin.only_loom {
                    print!("{}", wrap(why, "      not by windows: ", "        "));
                }
            }
        }
        println!("\nnext: cargo gup judge 'v5.15 with proposal:NAME'");
        Ok(Verdict::Held)
    }
}

fn print_commit(label: &str, c: &CommitRow) {
    let text = format!("{} {} ({})", c.id, c.subject, c.release);
    print!("{}", wrap(&text, label, INDENT));
}
