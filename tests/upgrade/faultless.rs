//! A build without debug assertions, as operators have it, injects no faults.

use crate::witnesses::{Scene, Store};

#[test]
fn a_build_for_use_does_not_look_at_the_file_of_faults() {
    let mut scene = Scene::set(Store::File);
    scene.have("predecessor:spawn kill\nsuccessor:greeted kill\ndeadline:prepare 0");
    scene.expect_success();
    scene.end();
}
