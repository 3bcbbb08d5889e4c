//! A kernel that lacks what the XDP program uses.

use relay_tests::World;

#[test]
fn an_old_kernel_is_refused_in_one_line_that_says_what_it_lacks() {
    let world = World::new();
    world.relay.write_configuration();
    let (status, said) = world.relay.start_and_fail(&mut world.relay.command());
    assert!(!status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in ["too old", "bpf_xdp_load_bytes", "5.18"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    crate::fact("wgrelay says", said.trim());
}
