//! Failures belong to the call that caused them, and to nobody else.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mlx_core::ops::random;
use mlx_core::{Array, Device, Dtype, Error, Stream, async_eval, eval, memory};

fn singular() -> Array {
    Array::zeros::<f32>(&[2, 2]).unwrap().inv().unwrap()
}

fn works() {
    let y = Array::full(&[3], 2.0f32).unwrap().square().unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [4.0; 3]);
}

#[test]
fn an_error_that_crossed_streams_ends_with_its_call() {
    let (first, second) = (
        Stream::new(Device::cpu()).unwrap(),
        Stream::new(Device::cpu()).unwrap(),
    );
    let inverse = first.scope(|| Ok(singular())).unwrap();
    let doubled = second.scope(|| (&inverse * 2.0)?.sum(false)).unwrap();
    assert!(doubled.eval().is_err());
    // Neither stream hands the same error to the next work.
    for stream in [first, second, first] {
        stream.synchronize().unwrap();
        stream
            .scope(|| {
                works();
                Ok(())
            })
            .unwrap();
    }
    assert!(inverse.eval().is_err() && doubled.item::<f32>().is_err());
}

#[test]
fn a_failure_nobody_waits_for_hits_nobody_else() {
    for _ in 0..20 {
        let inverse = singular();
        let _ = async_eval(&[&inverse]);
        drop(inverse);
        works();
        memory::clear_cache().unwrap();
        Stream::current().synchronize().unwrap();
    }
}

/// The thread that uses MLX first is refused by streams that have failed, and MLX went on counting
/// what it was refused: after a dozen failures it waited for ever. Here the test above is that thread.
#[test]
fn failures_on_the_first_thread_do_not_add_up() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "errors::a_failure_nobody_waits_for_hits_nobody_else",
        ])
        .args(["--test-threads", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            None if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            None => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            Some(status) => break status,
        }
    };
    assert!(status.success(), "{status}");
}

#[test]
fn a_failure_leaves_other_arrays_of_the_same_call_usable() {
    let fine = Array::full(&[2], 3.0f32).unwrap().square().unwrap();
    assert!(eval(&[&fine, &singular()]).is_err());
    // It may carry the error, but never memory that nothing wrote.
    match fine.to_vec::<f32>() {
        Ok(values) => assert_eq!(values, [9.0; 2]),
        Err(error) => assert!(error.to_string().contains("failed"), "{error}"),
    }
    works();
}

#[test]
fn a_kernel_that_refuses_its_dtype_fails_again_and_harms_nobody() {
    // MLX finds out while it evaluates.
    let key = random::key(1).unwrap();
    let wide = random::uniform::<f64>(0.0, 1.0, &[2], Some(&key));
    match wide {
        Err(error) => assert!(matches!(error, Error::Op { .. }), "{error:?}"),
        Ok(array) => {
            assert!(array.eval().is_err());
            assert!(array.eval().is_err());
        }
    }
    works();
}

#[test]
fn file_errors_say_what_the_system_said() {
    let error = mlx_core::io::load_npy("/no/such/file.npy").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/no/such/file.npy") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn seeds_belong_to_their_thread() {
    let draw = || {
        random::normal::<f32>(0.0, 1.0, &[4], None)
            .unwrap()
            .to_vec::<f32>()
            .unwrap()
    };
    random::seed(11).unwrap();
    let here = draw();
    let there = std::thread::spawn(move || {
        random::seed(11).unwrap();
        let first = draw();
        random::seed(12).unwrap();
        (first, draw())
    })
    .join()
    .unwrap();
    assert_eq!(here, there.0);
    assert_ne!(here, there.1);
    // What the other thread did to its generator is not seen here.
    let next = draw();
    random::seed(11).unwrap();
    draw();
    assert_eq!(next, draw());
}

#[test]
fn operators_on_bits_and_truth_values() {
    let (a, b) = (Array::scalar(12i32).unwrap(), Array::scalar(10i32).unwrap());
    let item = |x: mlx_core::Result<Array>| x.unwrap().item::<i32>().unwrap();
    assert_eq!(item(&a & &b), 8);
    assert_eq!(item(&a | &b), 14);
    assert_eq!(item(&a ^ &b), 6);
    assert_eq!(item(&a << 2), 48);
    assert_eq!(item(&a >> 2), 3);
    assert_eq!(item(!&a), -13);
    let no = (!Array::scalar(true).unwrap()).unwrap();
    assert_eq!(no.dtype(), Dtype::Bool);
    assert!(!no.item::<bool>().unwrap());
}
