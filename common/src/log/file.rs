//! A log file that is renamed once a day. The live file always has the configured name, because people tail it;
//! `app.log` of a past day becomes `app.20261122.log`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use time::{Date, OffsetDateTime, UtcDateTime};

/// Renamed files of one day, should the clock jump or the file be moved back.
const MAX_SAME_DAY: u32 = 100;

/// Appends to a file, renames it at midnight (UTC) and removes what is too old.
pub(super) struct DailyFile {
    path: PathBuf,
    max_days: u32,
    /// `None` after a failure; the next line tries again.
    file: Option<File>,
    /// The day of the lines in the live file.
    day: Date,
    today: fn() -> Date,
    /// Lines that could not be written since the last one that was.
    lost: u64,
    /// The last write broke off within a line.
    torn: bool,
}

impl DailyFile {
    /// Opens or creates the file. One that is left from an earlier day is renamed first.
    pub(super) fn open(path: &Path, max_days: u32) -> io::Result<Self> {
        Self::open_at(path, max_days, || OffsetDateTime::now_utc().date())
    }

    fn open_at(path: &Path, max_days: u32, today: fn() -> Date) -> io::Result<Self> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent)?;
        }
        // Only what is a file by itself can be renamed: `/dev/stderr` and pipes are left alone.
        let left = fs::metadata(path).ok().filter(|meta| meta.is_file() && meta.len() > 0);
        let day = left.and_then(|meta| meta.modified().ok()).map(|time| UtcDateTime::from(time).date());
        let file = append(path)?;
        let day = day.unwrap_or_else(today);
        let mut this =
            Self { path: path.to_owned(), max_days, file: Some(file), day, today, lost: 0, torn: false };
        this.rotate();
        this.remove_old();
        Ok(this)
    }

    fn rotate(&mut self) {
        let today = (self.today)();
        if today <= self.day {
            return;
        }
        let ended = std::mem::replace(&mut self.day, today);
        if !self.path.is_file() {
            return;
        }
        let free = (0..MAX_SAME_DAY).map(|n| dated(&self.path, ended, n)).find(|path| !path.exists());
        // Without a new name the lines go on where they are: better one large file than none.
        if free.is_some_and(|name| fs::rename(&self.path, name).is_ok()) {
            self.file = None;
        }
        self.remove_old();
    }

    fn remove_old(&self) {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let day = entry.file_name().to_str().and_then(|name| day_of(&self.path, name));
            if day.is_some_and(|day| (self.day - day).whole_days() > i64::from(self.max_days)) {
                // What cannot be removed now is tried again tomorrow.
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append(&self.path)?),
        };
        if self.lost > 0 {
            let line_break = if self.torn { "\n" } else { "" };
            let note = format!("{line_break}({} log lines could not be written)\n", self.lost);
            file.write_all(note.as_bytes())?;
            (self.lost, self.torn) = (0, false);
        }
        self.torn = true;
        file.write_all(line)?;
        self.torn = false;
        Ok(())
    }
}

impl Write for DailyFile {
    /// Takes every line: one that cannot be written is counted, and told when writing works again.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.rotate();
        if let Err(e) = self.write_line(line) {
            if self.lost == 0 {
                // Not eprintln!, which panics if standard error is on the same full disk.
                writeln!(io::stderr(), "cannot write to the log file {}: {e}", self.path.display()).ok();
            }
            self.lost += 1;
            self.file = None;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A File has no buffer of its own.
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// `app.log` with the day before its extension.
fn dated(path: &Path, day: Date, number: u32) -> PathBuf {
    let (stem, extension) = name_parts(path);
    let date = format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day());
    let number = if number == 0 { String::new() } else { format!("-{number}") };
    path.with_file_name(format!("{stem}.{date}{number}{extension}"))
}

/// The day in the name of a renamed file; `None` for every other file.
fn day_of(path: &Path, name: &str) -> Option<Date> {
    let (stem, extension) = name_parts(path);
    let middle = name.strip_prefix(&stem)?.strip_prefix('.')?.strip_suffix(&extension)?;
    let (date, number) = middle.split_once('-').unwrap_or((middle, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if date.len() != 8 || !digits(date) || number.is_empty() || !digits(number) {
        return None;
    }
    let month: u8 = date[4..6].parse().ok()?;
    Date::from_calendar_date(date[..4].parse().ok()?, month.try_into().ok()?, date[6..].parse().ok()?).ok()
}

fn name_parts(path: &Path) -> (String, String) {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (part(path.file_stem()), extension.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::SystemTime};

    use time::{Duration, Month};

    use super::*;

    thread_local! {
        static DAY: Cell<i64> = const { Cell::new(0) };
    }

    /// The first of November and then as many days as the test says.
    fn today() -> Date {
        Date::from_calendar_date(2026, Month::November, 1).unwrap() + Duration::days(DAY.get())
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_live_file_keeps_its_name_and_past_days_are_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs").join("app.log");
        DAY.set(0);
        let mut file = DailyFile::open_at(&path, 3, today).unwrap();
        fs::write(path.with_file_name("app.notes.log"), "not ours").unwrap();
        for day in 0..6 {
            DAY.set(day);
            file.write_all(format!("day {day}\n").as_bytes()).unwrap();
            file.write_all(b"more\n").unwrap();
        }
        assert_eq!(
            names(path.parent().unwrap()),
            ["app.20261103.log", "app.20261104.log", "app.20261105.log", "app.log", "app.notes.log"]
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "day 5\nmore\n");
        assert_eq!(fs::read_to_string(path.with_file_name("app.20261103.log")).unwrap(), "day 2\nmore\n");
    }

    #[test]
    fn a_file_of_an_earlier_day_is_renamed_at_the_start_and_one_of_today_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        fs::write(&path, "old\n").unwrap();
        let past = Date::from_calendar_date(2026, Month::October, 31).unwrap().midnight().assume_utc();
        File::options().append(true).open(&path).unwrap().set_modified(SystemTime::from(past)).unwrap();
        DAY.set(0);
        DailyFile::open_at(&path, 3, today).unwrap().write_all(b"new\n").unwrap();
        assert_eq!(names(directory.path()), ["app", "app.20261031"]);
        let now = today().midnight().assume_utc();
        File::options().append(true).open(&path).unwrap().set_modified(SystemTime::from(now)).unwrap();
        DailyFile::open_at(&path, 3, today).unwrap().write_all(b"again\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\nagain\n");
    }

    #[test]
    fn a_taken_name_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.log");
        DAY.set(0);
        let mut file = DailyFile::open_at(&path, 3, today).unwrap();
        file.write_all(b"first\n").unwrap();
        fs::write(directory.path().join("app.20261101.log"), "taken\n").unwrap();
        DAY.set(1);
        file.write_all(b"second\n").unwrap();
        assert_eq!(names(directory.path()), ["app.20261101-1.log", "app.20261101.log", "app.log"]);
    }

    /// `/dev/full` refuses every write as a full disk does.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_lines_but_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.log");
        DAY.set(0);
        let mut file = DailyFile::open_at(Path::new("/dev/full"), 3, today).unwrap();
        for _ in 0..3 {
            file.write_all(b"lost\n").unwrap();
        }
        // The disk has room again.
        (file.path, file.file) = (path.clone(), None);
        file.write_all(b"kept\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\n(3 log lines could not be written)\nkept\n");
    }
}
