//! What came of it: read from the guest, shown, and written into docs/kernels.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::Write as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{kernel::Kernel, limit, machine, steps::Step};

/// The end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended {
    status: i32,
    seconds: u32,
}

/// What a guest prints, by the lines that its first process (and a test that has found out something) begins with `::`.
#[derive(Debug, PartialEq, Eq)]
enum Told<'a> {
    Begin(&'a str),
    End(&'a str, Ended),
    /// Something that was measured: its name and what it is.
    Fact(&'a str, &'a str),
    /// All steps are done.
    Over,
    /// What a step prints.
    Line(&'a str),
}

impl<'a> Told<'a> {
    fn parse(line: &'a str) -> Self {
        let told = || {
            let line = line.strip_prefix("::")?;
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            Some(match word {
                "begin" => Self::Begin(rest),
                "end" => {
                    let mut words = rest.split(' ');
                    let name = words.next()?;
                    let (status, seconds) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                    Self::End(name, Ended { status, seconds })
                }
                "fact" => rest.split_once('\t').map(|(name, value)| Self::Fact(name, value))?,
                "over" => Self::Over,
                _ => return None,
            })
        };
        told().unwrap_or(Self::Line(line))
    }
}

/// What came of a kernel.
#[derive(Debug, Default)]
struct Guest {
    kernel: String,
    release: String,
    /// Of each step that has ended.
    ended: BTreeMap<&'static str, Ended>,
    /// In their order.
    steps: Vec<Step>,
    facts: Vec<(String, String)>,
    /// Why it did not come to its end.
    broken: Option<String>,
}

impl Guest {
    fn failed(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| self.ended.get(step.name).is_none_or(|ended| ended.status != 0))
    }
}

/// What came of all.
#[derive(Debug, Default)]
pub struct Report(Vec<Guest>);

impl Report {
    /// Boots a kernel and takes down what its guest tells. What the steps print is kept in `log`, and the kernel's console
    /// beside it; both are shown where a step fails.
    pub fn run(&mut self, kernel: &Kernel, steps: &[Step], machine: Command, log: &Path) {
        let mut guest = Guest {
            kernel: kernel.to_string(),
            release: kernel.release.clone(),
            steps: steps.to_vec(),
            ..Guest::default()
        };
        let console = log.with_extension("console");
        if let Err(error) = guest.follow(machine, log, &console) {
            guest.broken = Some(format!("{error:#}"));
        }
        if let Some(broken) = &guest.broken {
            eprintln!(
                "Linux {}: {broken}\n--- the end of its console ---\n{}",
                guest.release,
                end_of(&console)
            );
        }
        self.0.push(guest);
    }

    /// Fails if any step has.
    pub fn verdict(&self) -> Result<()> {
        let failed: usize = self.0.iter().map(|guest| guest.failed().count()).sum();
        if failed > 0 {
            bail!("{failed} steps failed");
        }
        if let Some(guest) = self.0.iter().find(|guest| guest.broken.is_some()) {
            bail!("Linux {} did not end as it should", guest.release);
        }
        Ok(())
    }
}

impl Guest {
    fn follow(&mut self, machine: Command, log: &Path, console: &Path) -> Result<()> {
        let mut file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        let (mut printed, mut over) = (Vec::new(), false);
        machine::boot(machine, console, limit(&self.steps), |line| {
            let _ = writeln!(file, "{line}");
            match Told::parse(line) {
                Told::Begin(_) => printed.clear(),
                Told::End(name, ended) => {
                    let result = if ended.status == 0 { "ok" } else { "FAILED" };
                    println!("{name:<12} {result:<8} {:>4} s", ended.seconds);
                    if ended.status != 0 {
                        eprintln!("--- the end of what it printed; all of it is in {} ---", log.display());
                        eprintln!(
                            "{}\n--- the end of the console ---\n{}",
                            tail(&printed, 80),
                            end_of(console)
                        );
                    }
                    if let Some(step) = self.steps.iter().find(|step| step.name == name) {
                        self.ended.insert(step.name, ended);
                    }
                }
                Told::Fact(name, value) => self.facts.push((name.to_owned(), value.to_owned())),
                Told::Over => over = true,
                Told::Line(line) => printed.push(line.to_owned()),
            }
        })?;
        if !over {
            bail!("the guest ended before its steps did");
        }
        Ok(())
    }
}

fn tail(lines: &[String], count: usize) -> String {
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn end_of(file: &Path) -> String {
    let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    tail(&text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>(), 30)
}

/// The names of the steps, in the order in which they are run.
fn columns(guests: &[Guest]) -> Vec<&Step> {
    let mut seen = BTreeSet::new();
    guests.iter().flat_map(|guest| &guest.steps).filter(|step| seen.insert(step.name)).collect()
}

fn result(guest: &Guest, name: &str) -> String {
    match guest.ended.get(name) {
        Some(Ended { status: 0, seconds }) => format!("ok, {seconds} s"),
        Some(Ended { status, .. }) => format!("FAILED ({status})"),
        None if guest.steps.iter().any(|step| step.name == name) => "FAILED (no end)".to_owned(),
        None => "–".to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = columns(&self.0);
        write!(f, "{:<12}", "step")?;
        self.0.iter().try_for_each(|guest| write!(f, " {:>16}", guest.kernel))?;
        writeln!(f)?;
        for step in columns {
            write!(f, "{:<12}", step.name)?;
            self.0.iter().try_for_each(|guest| write!(f, " {:>16}", result(guest, step.name)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Where the written part of the page begins, and where it ends.
const MARKS: [&str; 2] = ["<!-- measured: begin -->", "<!-- measured: end -->"];

impl Report {
    /// Writes it between the marks of a page.
    pub fn write(&self, page: &Path) -> Result<()> {
        let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let parts = text.split_once(MARKS[0]).zip(text.split_once(MARKS[1]));
        let ((before, _), (_, after)) =
            parts.with_context(|| format!("{} has not both of {}", page.display(), MARKS.join(" and ")))?;
        let text = format!("{before}{}\n\n{}\n{}{after}", MARKS[0], self.markdown(), MARKS[1]);
        fs::write(page, text).with_context(|| format!("write {}", page.display()))
    }

    fn markdown(&self) -> String {
        let row = |first: &str, cells: &mut dyn Iterator<Item = String>| {
            format!("| {first} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = format!("|---{}|\n", "|---".repeat(self.0.len()));
        let mut text = row("", &mut self.0.iter().map(|guest| guest.kernel.clone()));
        text += &rule;
        text += &row("`uname -r`", &mut self.0.iter().map(|guest| guest.release.clone()));
        for step in columns(&self.0) {
            let first = format!("`{}`: {}", step.name, step.about);
            text += &row(&first, &mut self.0.iter().map(|guest| result(guest, step.name)));
        }
        let mut seen = BTreeSet::new();
        let facts = self.0.iter().flat_map(|guest| &guest.facts).map(|(name, _)| name);
        for name in facts.filter(|name| seen.insert(*name)) {
            let of =
                |guest: &Guest| guest.facts.iter().find(|(fact, _)| fact == name).map(|(_, v)| v.clone());
            text += &row(name, &mut self.0.iter().map(|guest| of(guest).unwrap_or_else(|| "–".to_owned())));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_tells_is_understood() {
        assert_eq!(Told::parse("::begin load"), Told::Begin("load"));
        assert_eq!(Told::parse("::end load 101 7"), Told::End("load", Ended { status: 101, seconds: 7 }));
        assert_eq!(
            Told::parse("::fact verifier\t12 instructions"),
            Told::Fact("verifier", "12 instructions")
        );
        assert_eq!(Told::parse("::over"), Told::Over);
        for line in ["::end load", "::end load x 7", "::fact x", "begin load", "relay::program ok", "::"] {
            assert_eq!(Told::parse(line), Told::Line(line));
        }
    }

    fn report() -> Report {
        let kernel = |name: &str, step: &str, status: Option<i32>| {
            let (steps, ended) = (super::super::steps::named(step), status);
            let ended = ended.map(|status| (steps.name, Ended { status, seconds: 3 }));
            Guest {
                kernel: name.to_owned(),
                release: format!("{name}.0-1"),
                steps: vec![steps],
                ended: ended.into_iter().collect(),
                facts: vec![("verifier".to_owned(), "12".to_owned())],
                broken: None,
            }
        };
        Report(vec![kernel("6.1", "load", Some(0)), kernel("6.12", "oracle", None)])
    }

    #[test]
    fn a_step_that_has_not_ended_has_failed() {
        let report = report();
        assert_eq!(report.verdict().unwrap_err().to_string(), "1 steps failed");
        let text = report.to_string();
        assert!(text.contains("ok, 3 s") && text.contains("FAILED (no end)"), "{text}");
        assert!(Report(report.0.into_iter().take(1).collect()).verdict().is_ok());
    }

    #[test]
    fn a_page_keeps_what_is_around_its_marks() {
        let page = std::env::temp_dir().join(format!("xtask-vm-{}", std::process::id()));
        fs::write(&page, format!("before {} old {} after", MARKS[0], MARKS[1])).unwrap();
        report().write(&page).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        fs::write(&page, "no marks").unwrap();
        assert!(report().write(&page).is_err());
        fs::remove_file(&page).unwrap();
        assert!(text.starts_with("before <!--") && text.ends_with("--> after") && !text.contains("old"));
        assert!(text.contains("| verifier | 12 | 12 |\n"), "{text}");
    }
}
