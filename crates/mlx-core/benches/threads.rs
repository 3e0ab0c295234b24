//! Evaluations on two streams: one after the other, and from two threads at once.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use mlx_core::{Array, Device, Stream};

/// Work of one stream that MLX computes on a single thread.
fn work(stream: Stream, x: &Array) {
    let y = stream.scope(|| x.sin()?.exp()?.cos()?.sum(false)).unwrap();
    y.eval().unwrap();
}

fn threads(c: &mut Criterion) {
    let x = Array::ones::<f32>(&[1 << 19]).unwrap().copy().unwrap();
    x.eval().unwrap();
    let x = &x;
    let streams = [(); 2].map(|()| Stream::new(Device::cpu()).unwrap());
    c.bench_function("two evaluations, one after the other", |b| {
        b.iter(|| streams.map(|stream| work(stream, x)));
    });
    c.bench_function("two evaluations, from two threads", |b| {
        b.iter(|| {
            std::thread::scope(|scope| {
                for stream in streams {
                    scope.spawn(move || work(stream, x));
                }
            });
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = threads
}
criterion_main!(benches);
