// SPDX-License-Identifier: GPL-2.0-only
//! The port beside the mm/gup.c that this was built with.

mod v6_1;

use gup_core::history::{Base, Kernel};
use real_gup::sites;

use crate::exec::against::{Against, Difference, Divergence};
use crate::repro::Reproducer;
use crate::repro::columns::columns;
use crate::repro::minimise::minimise;
use crate::scenario::{Op, end_of_group};
use crate::subject::{Port, RealGup};

/// The port beside the C.
pub type PortAgainstC = Against<Port, RealGup>;

/// The kernel whose port follows the text: the base as it was released, with
/// what was fixed since the text.
pub fn kernel() -> Kernel {
    let open = if is_v6_1(&real_gup::text()) { v6_1::DEFECTS } else { &[] };
    open.iter().fold(Kernel::released(base()), |k, &d| k.with_defect(d))
}

/// The base that the text is compared with, and in whose surroundings it runs.
pub fn base() -> Base {
    if real_gup::text().since(5, 18) { Base::V6_12 } else { Base::V5_15 }
}

fn is_v6_1(text: &real_gup::Text) -> bool {
    text.known && text.release.starts_with("6.1.")
}

/// A comparison on [`kernel`].
pub fn against_c() -> PortAgainstC {
    Against::new(kernel(), Port, RealGup).but_for(differences())
}

/// What the text is known to do otherwise than the port.
pub fn differences() -> &'static [Difference] {
    if is_v6_1(&real_gup::text()) { v6_1::DIFFERENCES } else { &[] }
}

/// A divergence made small, and told: the scenario, and the steps of both in
/// two columns, with the line of the C beside each.
pub fn explain(against: &mut PortAgainstC, ops: &[Op]) -> Option<String> {
    let (ops, _) = minimise(ops, |ops| against.run(ops).map(|d| d.finding))?;
    let divergence: Divergence = against.run(&ops)?;
    let upto = &ops[..end_of_group(&ops, divergence.finding.op)];
    let [ours, theirs] = against.steps_of_last(upto, || sites::keep(true));
    let kept = sites::kept();
    sites::keep(false);
    let place = |i: usize| {
        let site = kept.iter().rfind(|site| site.step as usize <= i);
        site.map(sites::Site::describe).unwrap_or_default()
    };
    let scenario = Reproducer::from_ops(kernel(), &ops);
    Some(columns(&scenario, &divergence, &ours, &theirs, place))
}
