//! The chapters of `docs/guide`, whose examples are tests.

macro_rules! chapters {
    ($($name:ident)*) => {$(
        #[doc = include_str!(concat!("../../../docs/guide/", stringify!($name), ".md"))]
        mod $name {}
    )*};
}

chapters! { arrays errors indexing interop laziness memory streams threads transforms }
