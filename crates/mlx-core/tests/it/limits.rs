//! What memory and stacks cannot hold is an error, not the end of the process.

use std::process::Command;

use mlx_core::{Array, Error};

const CHILD: &str = "MLX_TEST_SMALL_ADDRESS_SPACE";

#[test]
fn absurd_sizes_are_errors_when_they_are_computed() {
    // 16 TiB: a shape that MLX accepts and no machine can hold.
    let huge = Array::zeros::<f32>(&[1 << 21, 1 << 21]).unwrap();
    let error = (&huge + 1.0).unwrap().exp().unwrap().eval().unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
    let small = Array::ones::<f32>(&[3]).unwrap().sum(false).unwrap();
    assert_eq!(small.item::<f32>().unwrap(), 3.0);
}

/// Runs as a child of the next test only; alone it has nothing to show.
#[test]
fn out_of_memory_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    for _ in 0..3 {
        let big = Array::ones::<f32>(&[40_000, 40_000]).unwrap();
        let error = (&big * 2.0).unwrap().eval().unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
    }
    let broadcast = Array::scalar(1u8)
        .unwrap()
        .broadcast_to(&[1 << 30, 4])
        .unwrap();
    assert!(matches!(
        broadcast.to_vec::<u8>(),
        Err(Error::OutOfMemory(_))
    ));
    assert_eq!(
        Array::scalar(2.0f32)
            .unwrap()
            .square()
            .unwrap()
            .item::<f32>()
            .unwrap(),
        4.0
    );
    println!("survived");
}

#[test]
#[cfg(target_os = "linux")]
fn real_lack_of_memory_is_an_error() {
    let program = std::env::current_exe().unwrap();
    // Two and a half GB of address space: enough to run, too little for the arrays.
    let output = Command::new("sh")
        .arg("-c")
        .arg("ulimit -v 2500000 && exec \"$0\" --exact limits::out_of_memory_child --nocapture --test-threads 1")
        .arg(program)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("survived"),
        "{} {text}",
        output.status
    );
}

const LOOP: &str = "MLX_TEST_ENDLESS_LOOP";

#[cfg(target_os = "linux")]
fn resident_kib() -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

/// Runs as a child of the next test only: other tests would use memory meanwhile.
#[test]
#[cfg(target_os = "linux")]
fn endless_loop_child() {
    if std::env::var_os(LOOP).is_none() {
        return;
    }
    let (a, b) = (
        Array::ones::<f32>(&[4]).unwrap(),
        Array::ones::<f32>(&[4]).unwrap(),
    );
    let run = |count: usize| {
        for i in 0..count {
            let sum = (&a + &b).unwrap();
            if i % 50 == 0 {
                sum.eval().unwrap();
            }
        }
    };
    run(20_000);
    let before = resident_kib();
    run(200_000);
    let grown = resident_kib() - before;
    // Four bytes for each operation would be more.
    assert!(grown < 768, "{grown} KiB more after 200,000 operations");
    println!("survived");
}

#[test]
#[cfg(target_os = "linux")]
fn recording_and_dropping_for_ever_takes_no_memory() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "limits::endless_loop_child", "--nocapture"])
        .env(LOOP, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("survived"),
        "{} {text}",
        output.status
    );
}

#[test]
fn a_million_operations_are_built_computed_and_dropped_on_a_small_stack() {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(|| {
            let one = Array::scalar(1.0f32).unwrap();
            let chain = || {
                let mut sum = Array::scalar(0.0f32).unwrap();
                for _ in 0..1_000_000 {
                    sum = (&sum + &one).unwrap();
                }
                sum
            };
            drop(chain());
            assert_eq!(chain().item::<f32>().unwrap(), 1_000_000.0);
        })
        .unwrap()
        .join()
        .unwrap();
}
