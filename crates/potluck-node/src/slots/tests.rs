//! What slots promise without a child.

use super::*;

#[test]
fn what_can_never_run_is_known_before() {
    let limits = Limits { memory_max_bytes: 1 << 20, ..Limits::DEFAULT };
    let lent = Lent { memory_bytes: potluck_peer::Rules::NODE_BYTES, ..Lent::ALL };
    assert!(Lent::ALL.can_run(&limits) && !lent.can_run(&limits));
    let enough =
        Lent { memory_bytes: potluck_peer::Rules::NODE_BYTES + Memory::of_runner(&limits), ..lent };
    assert!(enough.can_run(&limits));
    assert!(!Lent { memory_bytes: enough.memory_bytes - 1, ..enough }.can_run(&limits));
    assert!(!Lent { slots: 0, ..enough }.can_run(&limits));
}
