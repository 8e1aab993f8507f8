//! Schedules of CronJobs. The agent checks schedules, but does not run CronJobs yet.

use std::str::FromStr as _;

use super::digits;
use crate::problem::Finding;

/// A schedule in the syntax of crontab: five fields, six fields with seconds first, or a word such as `@daily`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The schedule in the syntax of the `cron` crate, which has seconds first and days of the week by name.
    pub normalised: String,
}

const DAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];

impl Schedule {
    /// Reads a schedule in the syntax of crontab.
    ///
    /// # Errors
    /// Returns the reason why the schedule is invalid.
    pub fn read(text: &str) -> Result<Self, Finding> {
        let wrong = |why: &str| {
            Finding::new(format!("{text:?} is not a schedule: {why}")).hint("write minute, hour, day, month and day of the week, like \"30 2 * * 1-5\", or @hourly, @daily, @weekly, @monthly, @yearly")
        };
        let normalised = if text.trim().starts_with('@') {
            text.trim().to_owned()
        } else {
            fields(text).map_err(|why| wrong(&why))?
        };
        cron::Schedule::from_str(&normalised)
            .map_err(|error| wrong(error.to_string().lines().last().unwrap_or_default().trim()))?;
        Ok(Self { normalised })
    }
}

fn fields(text: &str) -> Result<String, String> {
    let mut fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if fields.len() == 5 {
        fields.insert(0, "0".to_owned());
    }
    let count = fields.len();
    let Some(day) = fields.get_mut(5).filter(|_| count == 6) else {
        return Err(format!("it has {count} fields"));
    };
    // In crontab, 0 and 7 are Sunday. In the `cron` crate, 1 is Sunday. Names of days mean the same in both.
    *day = day.split(',').map(weekdays).collect::<Result<Vec<_>, _>>()?.join(",");
    Ok(fields.join(" "))
}

fn weekdays(item: &str) -> Result<String, String> {
    let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
    let step: usize = step.map_or(Ok(1), |step| digits(step).ok_or_else(|| format!("{step:?} is not a step")))?;
    let number = |word: &str| match digits::<usize>(word) {
        Some(number) if number < DAYS.len() => Ok(number),
        Some(number) => Err(format!("{number} is not a day of the week")),
        None => DAYS
            .iter()
            .position(|day| word.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(day)))
            .ok_or_else(|| format!("{word:?} is not a day of the week")),
    };
    let (first, mut last) = match (range, range.split_once('-')) {
        ("*" | "?", _) if step == 1 => return Ok("*".to_owned()),
        ("*" | "?", _) => (0, 6),
        (_, Some((first, last))) => (number(first)?, number(last)?),
        (_, None) => (number(range)?, number(range)?),
    };
    if last < first {
        last += 7;
    }
    Ok((first..=last).step_by(step.max(1)).map(|day| DAYS[day % 7]).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crontab_schedules_are_parsed() {
        assert_eq!(Schedule::read("30 2 * * 1-5").unwrap().normalised, "0 30 2 * * MON,TUE,WED,THU,FRI");
        assert_eq!(Schedule::read("0 0 * * 0").unwrap().normalised, "0 0 0 * * SUN");
        assert_eq!(Schedule::read("0 0 * * 5-7").unwrap().normalised, "0 0 0 * * FRI,SAT,SUN");
        assert!(Schedule::read("@daily").is_ok());
        let signed = ["0 0 * * +1", "0 0 * * 1-+5", "0 0 * * */+2", "+5 * * * *", "*/+5 * * * *"];
        for wrong in ["", "* * *", "61 * * * *", "0 0 * * 9", "@never"].into_iter().chain(signed) {
            assert!(Schedule::read(wrong).is_err(), "{wrong}");
        }
    }
}
