//! The derive as its users meet it: what compiles, and what the compiler says otherwise.

#[test]
fn messages_name_the_field_and_the_remedy() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}
