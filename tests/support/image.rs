//! The Dockerfile as tests read it: its stages, their instructions, and the environment of the image.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One instruction of the Dockerfile.
pub struct Instruction {
    pub name: String,
    pub rest: String,
}

/// The stages of the Dockerfile; each begins with its FROM.
pub fn stages() -> Vec<Vec<Instruction>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/Dockerfile");
    let text = fs::read_to_string(path).expect("the Dockerfile").replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in lines {
        let (name, rest) = line.split_once(' ').expect("an instruction has arguments");
        if name == "FROM" {
            stages.push(Vec::new());
        }
        let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        stages.last_mut().expect("FROM comes first").push(Instruction { name: name.to_owned(), rest });
    }
    stages
}

/// The arguments of all instructions of a stage that have this name.
pub fn said<'a>(stage: &'a [Instruction], name: &str) -> Vec<&'a str> {
    stage.iter().filter(|instruction| instruction.name == name).map(|instruction| &*instruction.rest).collect()
}

/// The `name=value` pairs of an instruction.
pub fn pairs(rest: &str) -> impl Iterator<Item = (String, String)> {
    rest.split_whitespace().map(|pair| pair.split_once('=').expect("name=value")).map(|(k, v)| (k.into(), v.into()))
}

/// The configuration file of the image.
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/terrace.toml")
}
