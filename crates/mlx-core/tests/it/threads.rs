//! Arrays from many threads at once.

use std::sync::Arc;
use std::thread;

use mlx_core::{Array, Device, Stream, async_eval};

#[test]
fn one_lazy_array_may_be_evaluated_by_many_threads() {
    for _ in 0..50 {
        let x = Arc::new(
            (&Array::ones::<f32>(&[64]).unwrap() * 2.0)
                .unwrap()
                .exp()
                .unwrap(),
        );
        thread::scope(|scope| {
            for _ in 0..4 {
                let x = Arc::clone(&x);
                scope.spawn(move || {
                    let sum = x.sum(false).unwrap().item::<f32>().unwrap();
                    assert!((sum - 64.0 * 2f32.exp()).abs() < 1e-2);
                });
            }
        });
    }
}

#[test]
fn graphs_cross_threads_before_and_after_evaluation() {
    let lazy = Array::arange::<f32>(0.0, 8.0, 1.0)
        .unwrap()
        .square()
        .unwrap();
    let back = thread::spawn(move || {
        async_eval(&[&lazy]).unwrap();
        lazy
    })
    .join()
    .unwrap();
    assert_eq!(back.to_vec::<f32>().unwrap()[7], 49.0);
}

#[test]
fn threads_leave_no_streams_behind() {
    let threads = || {
        std::fs::read_dir("/proc/self/task")
            .map(Iterator::count)
            .unwrap_or(0)
    };
    Array::scalar(1.0f32)
        .unwrap()
        .exp()
        .unwrap()
        .eval()
        .unwrap();
    let before = threads();
    for _ in 0..100 {
        thread::spawn(|| {
            Array::scalar(1.0f32)
                .unwrap()
                .exp()
                .unwrap()
                .eval()
                .unwrap()
        })
        .join()
        .unwrap();
    }
    // Other tests of this process come and go meanwhile.
    assert!(
        threads() < before + 50,
        "{before} threads became {}",
        threads()
    );
}

#[test]
fn scopes_place_work_and_end_with_panics() {
    let stream = Stream::new(Device::cpu()).unwrap();
    let outside = Stream::current();
    let result = std::panic::catch_unwind(|| {
        let _ = stream.scope(|| -> mlx_core::Result<()> {
            assert_eq!(Stream::current(), stream);
            panic!("leaves the scope");
        });
    });
    assert!(result.is_err());
    assert_eq!(Stream::current(), outside);
    let y = stream
        .scope(|| Array::ones::<f32>(&[3])?.sum(false))
        .unwrap();
    assert_eq!(y.item::<f32>().unwrap(), 3.0);
    stream.synchronize().unwrap();
}

#[test]
fn waiting_leaves_other_threads_free() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    // Long enough to be still running when the other thread starts: one thread of MLX's own.
    let slow = Stream::new(Device::cpu()).unwrap();
    let long = slow
        .scope(|| {
            let mut x = Array::ones::<f32>(&[1 << 20])?.copy()?;
            for _ in 0..20 {
                x = x.sin()?.exp()?;
            }
            x.sum(false)
        })
        .unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            long.eval().unwrap();
            done.store(true, Ordering::SeqCst);
        });
        // Until the work has been handed to the stream.
        let start = Instant::now();
        while !done.load(Ordering::SeqCst) && start.elapsed() < Duration::from_millis(50) {
            thread::yield_now();
        }
        let mut finished_meanwhile = 0;
        while !done.load(Ordering::SeqCst) {
            Array::scalar(1.0f32)
                .unwrap()
                .exp()
                .unwrap()
                .eval()
                .unwrap();
            finished_meanwhile += usize::from(!done.load(Ordering::SeqCst));
        }
        // With the lock held for the whole evaluation at most one could slip in.
        assert!(finished_meanwhile > 1, "{finished_meanwhile}");
    });
}
