//! What the roofline measures is a bandwidth, however little memory there is to copy.

use kernelet::{Cpu, peak};

#[test]
fn copies_are_measured_whatever_the_working_set() {
    for threads in [1, 2] {
        let cpu = Cpu::detect().and_then(|cpu| cpu.with_threads(threads));
        let cpu = cpu.expect("a few threads");
        for working_set in [0, 1001, 1 << 20] {
            let gbytes = peak::copy_gbytes(&cpu, working_set);
            assert!(gbytes > 0.0 && gbytes.is_finite(), "{working_set} bytes: {gbytes} GB/s");
        }
    }
}
