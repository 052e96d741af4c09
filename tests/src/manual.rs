//! The recipes of `docs/OPERATIONS.md`: blocks of shell commands that follow a mark `<!-- recipe: NAME -->`.

use std::path::Path;

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The commands of a recipe, as they are written.
///
/// # Panics
/// When there is none of that name.
pub fn recipe(name: &str) -> String {
    let text = text();
    let (_, rest) =
        text.split_once(&format!("<!-- recipe: {name} -->\n```sh\n")).unwrap_or_else(|| panic!("no {name}"));
    rest.split_once("\n```").expect("the end of the block").0.to_owned()
}

/// The names of all recipes.
///
/// # Panics
/// When a block of `sh` has no mark, so that nothing would run it.
pub fn recipes() -> Vec<String> {
    let text = text();
    let marks = text.split("<!-- recipe: ").skip(1);
    let names: Vec<String> = marks.filter_map(|rest| Some(rest.split_once(" -->\n```sh\n")?.0.to_owned())).collect();
    assert_eq!(names.len(), text.matches("```sh\n").count(), "a block of sh without a mark");
    names
}
