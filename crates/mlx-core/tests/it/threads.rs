//! Arrays from many threads at once.

use std::sync::{Arc, Mutex};
use std::thread;

use mlx_core::{Array, Device, Dtype, Stream, async_eval};

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

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(n).unwrap()).unwrap()
    }
}

/// An array all of whose elements are this number.
type Known = (Array, f32);

fn check((array, want): &Known, values: &[f32]) {
    assert_eq!(values.len(), array.size());
    for value in values {
        assert!((value - want).abs() <= 1e-3 * want.abs().max(1.0));
    }
}

/// One thing that a thread may do with arrays that others use at the same time.
fn step(rng: &mut Rng, own: &mut Vec<Known>, table: &Mutex<Vec<Known>>, stream: Stream) {
    let pick = |rng: &mut Rng, own: &[Known]| own[rng.below(own.len())].clone();
    let ((a, x), (b, y)) = (pick(rng, own), pick(rng, own));
    match rng.below(9) {
        0 => own.push((((&a + &b).unwrap() * 0.5).unwrap(), (x + y) * 0.5)),
        1 => own.push((a.maximum(&b).unwrap(), x.max(y))),
        2 => own.push((stream.scope(|| (&a * 0.25)? - &b).unwrap(), x * 0.25 - y)),
        3 => {
            // Our own kernels, on the threads that all streams share.
            let wide = |array: &Array| array.reshape(&[8, 8])?.astype(Dtype::Bfloat16);
            let product = wide(&a).unwrap().matmul(&wide(&b).unwrap()).unwrap();
            let got = product
                .astype(Dtype::Float32)
                .unwrap()
                .to_vec::<f32>()
                .unwrap();
            let want = 8.0 * x * y;
            assert!(
                got.iter()
                    .all(|v| (v - want).abs() <= 0.05 * want.abs() + 0.1)
            );
        }
        4 => async_eval(&[&a, &b]).unwrap(),
        5 => check(&(a.clone(), x), &a.to_vec::<f32>().unwrap()),
        6 => {
            // A slice outlives the handles that it was made of.
            let slice = a.to_slice::<f32>().unwrap();
            own.retain(|(array, _)| array.id() != a.id());
            check(&(a, x), &slice);
        }
        7 => {
            assert!(a.reshape(&[63]).is_err());
            let empty = Array::zeros::<f32>(&[2, 2]).unwrap();
            assert!(empty.inv().unwrap().eval().is_err());
        }
        _ => {
            let mut table = table.lock().unwrap();
            let place = rng.below(table.len());
            own.push(std::mem::replace(&mut table[place], (a, x)));
        }
    }
    if own.len() > 12 {
        drop(own.swap_remove(rng.below(own.len())));
    }
    if own.is_empty() {
        own.push((b, y));
    }
}

#[test]
fn threads_build_evaluate_read_hand_over_and_drop_at_random() {
    let known = |value: f32| (Array::full::<f32>(&[64], value).unwrap(), value);
    let table = Mutex::new((0..6u8).map(|n| known(f32::from(n))).collect::<Vec<_>>());
    let stream = Stream::new(Device::cpu()).unwrap();
    thread::scope(|scope| {
        for seed in 0..4 {
            let table = &table;
            scope.spawn(move || {
                let mut rng = Rng(seed);
                let mut own = vec![known(1.0), known(-2.0)];
                for _ in 0..300 {
                    step(&mut rng, &mut own, table, stream);
                }
                for known in &own {
                    check(known, &known.0.to_vec::<f32>().unwrap());
                }
            });
        }
    });
}
