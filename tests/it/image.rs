//! Tests the image without a container engine: reads the Dockerfile, follows the instructions of its last stage in an
//! empty root, then runs, queries and stops the result as the image specifies.
//!
//! The contents of the base image (a shell, the tools that RUN names, the C library) are copied from this machine. Two
//! parts are omitted: instructions that need the network (`apt-get`), and the build, whose product is the binary that
//! is tested anyway. An unknown instruction fails the test.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{MetadataExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use terrace::config::{Sources, load};

use crate::support::{
    command::{Killed, has, run},
    eventually,
    image::{Instruction, file, pairs, said, stages},
    markdown::Page,
};

fn words(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn its_bases_are_pinned_and_its_environment_valid() {
    let stages = stages();
    let base = |stage: &[Instruction]| said(stage, "FROM")[0].split_whitespace().next().unwrap().to_owned();
    for from in stages.iter().map(|stage| base(stage)) {
        let (_, tag) = from.split_once(':').unwrap();
        assert!(tag.matches('.').count() >= 1 && !tag.contains("latest"), "{from}");
    }
    let (toolchain, bottom) = (base(&stages[0]), base(stages.last().unwrap()));
    assert!(
        toolchain.ends_with("-bookworm") && bottom.starts_with("debian:12."),
        "one C library: {toolchain}, {bottom}"
    );
    let number = |text: &str| text.split('.').take(2).map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
    let rust = toolchain.strip_prefix("rust:").unwrap();
    assert!(number(rust) >= number(env!("CARGO_PKG_RUST_VERSION")), "{rust} builds Terrace");
    // A variable of the image would take precedence over a mounted file.
    assert!(said(stages.last().unwrap(), "ENV").is_empty());
    // The image decides nothing about access.
    let undecided = load(&Sources { file: Some(file()), ..Sources::default() }).unwrap_err().to_string();
    assert!(undecided.contains("auth.anonymous is not set"), "{undecided}");
    let environment = vec![("TERRACE_AUTH_ANONYMOUS".to_owned(), "admin".to_owned())];
    let loaded = load(&Sources { file: Some(file()), environment, ..Sources::default() }).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = loaded.config;
    let ports = [config.grpc.addr, config.resp.addr, config.http.addr];
    let ports: Vec<&str> = ports.iter().map(|address| address.rsplit_once(':').unwrap().1).collect();
    assert_eq!(said(stages.last().unwrap(), "EXPOSE"), [ports.join(" ")]);
    assert!(config.server.expose);
}

#[test]
fn the_deployment_page_describes_the_image() {
    let stages = stages();
    let last = stages.last().unwrap();
    let page = Page::read("docs/operations/deploy.md");
    let facts = ["/etc/terrace/terrace.toml".to_owned()]
        .into_iter()
        .chain(said(last, "USER").into_iter().chain(said(last, "VOLUME")).map(str::to_owned));
    for fact in facts {
        assert!(page.text.contains(&format!("`{fact}`")), "{} does not name {fact} of the image", page.path);
    }
}

#[test]
fn what_is_copied_into_it_is_what_was_built() {
    let stages = stages();
    let (build, last) = (&stages[0], stages.last().unwrap());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(said(build, "COPY"), [". ."]);
    let ignored = fs::read_to_string(folder.join(".dockerignore")).unwrap();
    assert!(["target", ".git"].iter().all(|left_out| ignored.lines().any(|line| line == *left_out)), "{ignored}");
    let command = said(build, "RUN").join(" && ");
    let binary = command.split_once("--bin ").unwrap().1.split_whitespace().next().unwrap();
    assert!(
        command.contains("cargo build") && command.contains("--profile image") && command.contains("--locked"),
        "{command}"
    );
    assert!(env!("CARGO_BIN_EXE_terrace").ends_with(binary), "{binary}");
    let stage = said(build, "FROM")[0].split_once(" AS ").unwrap().1;
    let built = format!("--from={stage} {}/target/image/{binary} ", said(build, "WORKDIR")[0]);
    assert!(said(last, "COPY")[0].starts_with(&built), "{built}");
    assert_eq!(said(last, "COPY")[1], "docker/terrace.toml /etc/terrace/terrace.toml");
}

/// An image after the instructions that were followed.
struct Image {
    root: TempDir,
    environment: Vec<(String, String)>,
    user: String,
    workdir: String,
    entrypoint: Vec<String>,
    command: Vec<String>,
    health: Vec<String>,
    stop: Signal,
}

/// Returns the path of a command on this machine.
fn located(command: &str) -> PathBuf {
    PathBuf::from(run(Command::new("sh").args(["-c", &format!("command -v {command}")])).trim())
}

impl Image {
    /// Creates the base: the directories of Debian, a shell, root.
    fn base() -> Self {
        let root = tempfile::tempdir().unwrap();
        run(Command::new("chmod").arg("755").arg(root.path()));
        for folder in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.path().join("usr").join(folder)).unwrap();
            symlink(format!("usr/{folder}"), root.path().join(folder)).unwrap();
        }
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
        let image = Self {
            root,
            environment: Vec::new(),
            user: "0:0".into(),
            workdir: "/".into(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            health: Vec::new(),
            // The default of a container.
            stop: Signal::TERM,
        };
        image.bring(&located("sh"), Path::new("/usr/bin/sh"));
        image
    }

    /// Returns the path of a file of the image on this machine.
    fn at(&self, path: &Path) -> PathBuf {
        self.root.path().join(path.strip_prefix("/").unwrap())
    }

    /// Copies a program and the libraries that it needs.
    fn bring(&self, program: &Path, to: &Path) {
        let libraries = run(Command::new("ldd").arg(program));
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
        for (from, to) in libraries.map(|library| (library, library)).chain([(program, to)]) {
            fs::create_dir_all(self.at(to).parent().unwrap()).unwrap();
            fs::copy(from, self.at(to)).unwrap();
        }
    }

    fn follow(&mut self, Instruction { name, rest }: &Instruction) {
        match &**name {
            // The base image.
            "FROM" => {}
            "RUN" => self.do_within(rest),
            "COPY" => {
                let (from, to) = rest.rsplit_once(' ').unwrap();
                if from.starts_with("--from=") {
                    self.bring(Path::new(env!("CARGO_BIN_EXE_terrace")), Path::new(to));
                } else {
                    let to = self.at(Path::new(to));
                    fs::create_dir_all(to.parent().unwrap()).unwrap();
                    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(from), to).unwrap();
                }
            }
            "USER" => self.user.clone_from(rest),
            "WORKDIR" => {
                fs::create_dir_all(self.at(Path::new(rest))).unwrap();
                self.workdir.clone_from(rest);
            }
            "VOLUME" => assert!(self.at(Path::new(rest)).is_dir(), "{rest} is there, and its owner stays"),
            "ENV" => self.environment.extend(pairs(rest)),
            // Instructions for other tools; compared with the ports above.
            "EXPOSE" => {}
            "STOPSIGNAL" => match &**rest {
                "SIGTERM" => self.stop = Signal::TERM,
                other => panic!("Terrace drains on SIGTERM, not on {other}"),
            },
            "HEALTHCHECK" => self.health = words(rest.split_once("CMD ").unwrap().1),
            "ENTRYPOINT" => self.entrypoint = words(rest),
            "CMD" => self.command = words(rest),
            name => panic!("nobody has said here how {name} is followed"),
        }
    }

    /// Runs commands in the root, except those that need the network.
    fn do_within(&self, commands: &str) {
        let (left_out, commands): (Vec<&str>, Vec<&str>) =
            commands.split("&&").map(str::trim).partition(|command| command.starts_with("apt-get "));
        left_out.iter().for_each(|command| println!("left out: {command}"));
        for command in &commands {
            let program = located(command.split_whitespace().next().unwrap());
            self.bring(&program, &program);
        }
        let script = commands.join(" && ");
        run(&mut self.inside("0:0", "/", &["/bin/sh", "-ec", &script].map(str::to_owned)));
    }

    /// Returns a command in the root.
    fn inside(&self, user: &str, folder: &str, words: &[String]) -> Command {
        let mut command = Command::new(located("chroot"));
        let script = format!("cd {folder} && exec \"$@\"");
        command
            .arg(format!("--userspec={user}"))
            .arg(self.root.path())
            .args(["/bin/sh", "-c", &script, "sh"])
            .args(words);
        command.env_clear().envs(self.environment.iter().cloned());
        command
    }

    /// Returns a command with the user and the environment of the image.
    fn as_itself(&self, words: &[String]) -> Command {
        self.inside(&self.user, &self.workdir, words)
    }
}

#[test]
fn its_last_stage_followed_in_an_empty_root_runs_answers_and_stops() {
    if !rustix::process::geteuid().is_root() || !["ldd", "chroot", "useradd"].into_iter().all(has) {
        println!("left out: only root may change its root, with Debian's tools");
        return;
    }
    let mut image = Image::base();
    stages().last().unwrap().iter().for_each(|instruction| image.follow(instruction));
    let (user, group) = image.user.split_once(':').unwrap();
    let accounts = fs::read_to_string(image.at(Path::new("/etc/passwd"))).unwrap();
    assert!(user != "0" && accounts.contains(&format!(":{user}:{group}:")), "{accounts}");

    let mut serve = image.as_itself(&[&*image.entrypoint, &*image.command].concat());
    // The ports of the image may be in use on this machine.
    let addresses = ["--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let serve = serve.args(addresses).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    let mut server = Killed(serve.spawn().unwrap());
    let printed = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let lines: Vec<String> = printed.map_while(Result::ok).take(4).collect();
    assert_eq!(lines.last().map(String::as_str), Some("ready"), "{lines:?}");
    let said = run(image.as_itself(&image.health).args(["--server", lines[0].strip_prefix("grpc ").unwrap()]));
    assert!(said.contains("ready, L2 up"), "{said}");
    let environment = vec![("TERRACE_AUTH_ANONYMOUS".to_owned(), "none".to_owned())];
    let loaded = load(&Sources { file: Some(file()), environment, ..Sources::default() }).unwrap();
    let data = loaded.config.data.dir;
    let store = fs::metadata(image.at(&data.join("store"))).unwrap();
    assert_eq!((store.uid().to_string(), store.gid().to_string()), (user.to_owned(), group.to_owned()));
    kill_process(Pid::from_child(&server.0), image.stop).unwrap();
    let mut ended = None;
    eventually("it has drained", || {
        ended = server.0.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success(), "{ended:?}");
}
