//! Scraping `/metrics`, and reading what it returns line by line.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What a scrape has returned.
#[derive(Debug)]
pub struct Scrape {
    /// By name as `# TYPE` has it, in order.
    pub families: Vec<Family>,
    /// Values by name and labels, as they are written.
    samples: BTreeMap<String, f64>,
}

/// What is said of one metric.
#[derive(Debug, Default)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: String,
    pub unit: String,
    /// The names of the labels of each sample, but for the bounds of histograms.
    pub labels: Vec<Vec<String>>,
}

/// Gets a page of the admin port. Returns its head and its body.
pub fn get(admin: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

impl Scrape {
    /// Scrapes a server from outside of a runtime.
    pub fn get(admin: SocketAddr) -> Self {
        let (head, body) = get(admin, "/metrics");
        assert!(head.starts_with("HTTP/1.0 200"), "{head}\n{body}");
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        Self::parse(&body)
    }

    /// Scrapes a server from within a runtime.
    pub async fn take(admin: SocketAddr) -> Self {
        tokio::task::spawn_blocking(move || Self::get(admin)).await.unwrap()
    }

    fn parse(body: &str) -> Self {
        let mut scrape = Self { families: Vec::new(), samples: BTreeMap::new() };
        assert!(body.ends_with("\n# EOF\n"), "it is complete");
        for line in body.lines().filter(|line| *line != "# EOF") {
            let Some(said) = line.strip_prefix("# ") else {
                scrape.sample(line);
                continue;
            };
            let [what, name, text] = said.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            match what {
                "HELP" => {
                    let is_new = scrape.families.iter().all(|family| family.name != name);
                    assert!(is_new, "{name} is described once");
                    scrape.families.push(Family { name: name.into(), ..Family::default() });
                    scrape.last().help = text.into();
                }
                "TYPE" => scrape.last().kind = text.into(),
                "UNIT" => scrape.last().unit = text.into(),
                _ => panic!("{line}"),
            }
            assert_eq!(scrape.last().name, name, "{line}");
        }
        scrape
    }

    fn last(&mut self) -> &mut Family {
        self.families.last_mut().expect("described before")
    }

    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(self.samples.insert(series.into(), value).is_none(), "{series} is there once");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let names = labels.map(|label| label.split('=').next().unwrap().to_owned());
        let names = names.filter(|name| name != "le").collect();
        let family = self.last();
        let suffixes: &[&str] = match &*family.kind {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let suffix = name.strip_prefix(&*family.name);
        assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{name} of {}", family.name);
        family.labels.push(names);
    }

    /// The value of a series, as it is written.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("{series} in {:#?}", self.samples))
    }

    /// The value of a series, if there is one.
    pub fn find(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// The series of a name, and their values.
    pub fn series(&self, name: &str) -> BTreeMap<&str, f64> {
        let of_name = |series: &str| series.split('{').next() == Some(name);
        self.samples.iter().filter(|(series, _)| of_name(series)).map(|(it, value)| (&**it, *value)).collect()
    }

    /// Whether there is a metric of which this is the name of a series.
    pub fn has(&self, name: &str) -> bool {
        self.families.iter().any(|family| {
            let suffix = name.strip_prefix(&*family.name);
            match &*family.kind {
                "counter" => suffix == Some("_total"),
                "info" => suffix == Some("_info"),
                "histogram" => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
                _ => suffix == Some(""),
            }
        })
    }
}
