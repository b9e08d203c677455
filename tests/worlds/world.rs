//! One world, from its beginning to its end.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use hawk::session::Handler as _;
use hawk::stats::StoreState;
use hawk_testkit::worlds::{Broken, Counts, Dice, Tally as _};
use hawk_time::{Moment, UnixNanos};

use super::agents::{Agent, Kind, Link};
use super::files::{self, Fate};
use super::plan::{DAY, HOUR, MINUTE, MS, Plan, SECOND};
use super::server::{Sent, Server, What};

/// A clock that is set ahead by more than this pauses expiry by age (docs/store.md).
const JUMP: Duration = Duration::from_secs(3600);

/// How late a state may change: the roster's alarms have ticks.
const TICK: u64 = 100 * MS;

/// Turns after the last thing that happens, in which the server brings all to an end.
const LAST_TURNS: u32 = 400;

hawk_testkit::events! {
    steps:
        Heartbeat,
        Report,
        Probe,
        InventedName,
        NoPlace,
        ClockSetForward,
        ClockSetBack,
        Standstill,
        SlowWriter,
        Stop,
        Kill,
        Renamed,
        Removed,
        BackedUp,
        Restored,
        DiskFull,
        LongReader;
    observations:
        Reconnect,
        Burst,
        Refused,
        Discarded,
        Acknowledged,
        ExpiredByAge,
        ExpiredBySize,
}

/// How a life of the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
}

/// What is known of agents at a stop.
struct States {
    /// Watched agents of the plan, and whether they are online.
    agents: Vec<(String, bool)>,
    /// How many agents are online, those with invented names included.
    online: usize,
}

pub struct World {
    plan: Plan,
    server: Server,
    agents: Vec<Agent>,
    dice: Dice,
    counts: Counts<Event>,
    wanted: u64,
    /// Before this, no agent need be declared offline.
    amnesty: u64,
    /// Since when the writer was not let go on for several turns.
    stalled_since: Option<u64>,
    /// Turns for which the disk is still full, and the writer slow.
    full: u32,
    slow: u32,
    reading: u32,
    end: Option<End>,
    /// Turns left before the last stop, once all wanted steps were taken.
    last_turns: Option<u32>,
    /// Greatest times of the wall clock at which reports may expire by their age: each with
    /// the number of the last report before.
    walls: Vec<(u64, i64)>,
    /// When the wall clock was set ahead by more than an hour, if it was not set back since:
    /// nothing expires by its age.
    jumped_at: Option<u64>,
    /// By file and sequence number, the report there.
    places: HashMap<(usize, i64), u64>,
    /// At a stop, what the file must say of agents, unless the store may lack some of it.
    states: Option<States>,
    broken: Option<String>,
    last: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xD15_4035);
        let plan = Plan::new(&mut dice);
        let server = Server::new(&plan, Dice::new(seed ^ 0x5E_41E5));
        let now = server.now();
        let kinds = plan.kinds.iter().enumerate();
        let agents = kinds.map(|(index, kind)| Agent::new(index, *kind, now, &mut dice));
        Self {
            agents: agents.collect(),
            plan,
            server,
            dice,
            counts: Counts::default(),
            wanted: 0,
            amnesty: 0,
            stalled_since: None,
            full: 0,
            slow: 0,
            reading: 0,
            end: None,
            last_turns: None,
            walls: Vec::new(),
            jumped_at: None,
            places: HashMap::new(),
            states: None,
            broken: None,
            last: Vec::new(),
        }
    }

    /// Takes `steps` steps, and comes to an end.
    pub fn run(mut self, steps: u64) -> Result<Counts<Event>, Broken> {
        self.wanted = steps;
        loop {
            self.server.files.limit(false);
            self.amnesty = self.server.now() + self.plan.start_grace;
            let mut started = self.server.start(&self.plan);
            if started.is_err() && self.reading > 0 {
                // A backup has no log yet, and cannot get one while another program reads it.
                self.reading = 0;
                self.server.files.read_long(false);
                started = self.server.start(&self.plan);
            }
            match started {
                Ok(writer) => writer.run(|_patience| self.proceed()),
                Err(error) => self.breaks(&format!("the store cannot be opened: {error}")),
            }
            self.server.files.limit(false);
            self.server.keeper = None;
            self.server.ledger.process_ends();
            for agent in &mut self.agents {
                agent.links.clear();
                (agent.heard_at, agent.rhythm, agent.hours) = (None, 0, 0);
            }
            let end = self.end.take();
            // A pause that was not written down ends with its process.
            self.jumped_at = self.jumped_at.filter(|at| self.server.now() - at >= MINUTE);
            self.note(&format!("the server is {end:?}"));
            if end == Some(End::Killed) && self.server.files.unnoticed {
                // What it had not moved into the file went with the log.
                let before = self.server.files.live() - 1;
                self.server.files.fates[before] = Fate::Gone;
            }
            if self.broken.is_none() {
                self.audit();
            }
            if let Some(broken) = self.broken {
                let trace = self.last.join("\n");
                return Err(Broken {
                    step: self.counts.steps(),
                    report: format!("{broken}\n{:#?}\n{trace}", self.plan),
                });
            }
            if self.last_turns == Some(0) {
                return Ok(self.counts);
            }
            let downtime = *self.dice.pick(&[0, 100 * MS, 5 * SECOND, HOUR]);
            self.server.clock.advance(Duration::from_nanos(downtime));
        }
    }

    /// The writer would wait for a batch: the server has a turn or more.
    fn proceed(&mut self) -> ControlFlow<()> {
        if self.server.keeper.is_none() {
            // It was told to stop, and writes what is left.
            return ControlFlow::Continue(());
        }
        self.server.files.limit(false);
        let begun = self.server.now();
        let mut stalled_since = None;
        loop {
            self.turn();
            self.stalled_since = stalled_since;
            if self.broken.is_some() {
                self.server.keeper = None;
                return ControlFlow::Break(());
            }
            match self.end {
                Some(End::Killed) => {
                    self.server.keeper = None;
                    return ControlFlow::Break(());
                }
                Some(End::Stopped) => {
                    self.states = self.known_states();
                    if let Some(keeper) = self.server.keeper.take() {
                        let _unfinished = keeper.finish(Duration::ZERO, Duration::ZERO);
                    }
                    break;
                }
                None if self.slow > 0 => {
                    self.slow -= 1;
                    stalled_since = Some(begun);
                    self.stalled_since = stalled_since;
                }
                None => break,
            }
        }
        self.server.files.limit(self.full > 0);
        ControlFlow::Continue(())
    }

    /// Returns the states of the agents, if the next commit will bring them into the file.
    fn known_states(&self) -> Option<States> {
        let statistics = self.server.statistics()?;
        let online = statistics.agents?.online;
        let is_up = statistics.store?.state == StoreState::Up;
        let is_usable = is_up && self.full == 0 && !self.server.files.unnoticed;
        let keeper = self.server.keeper.as_ref().filter(|_| is_usable)?;
        let identities = self
            .agents
            .iter()
            .map(|agent| (agent.owner(), agent.identity()));
        let states = identities.filter_map(|(owner, identity)| {
            let entry = keeper.agent(identity)?;
            entry.watched.then_some((owner, entry.online))
        });
        Some(States {
            agents: states.collect(),
            online,
        })
    }

    fn turn(&mut self) {
        self.time_passes();
        self.server.begin_turn();
        match self.last_turns {
            None => {
                let now = self.server.now();
                for index in 0..self.agents.len() {
                    if self.agents[index].next_at <= now {
                        self.act(index);
                    }
                }
            }
            Some(left) => self.come_to_an_end(left),
        }
        self.server.end_turn();
        self.judge();
        if self.last_turns.is_none() {
            self.something_happens();
            if self.counts.steps() >= self.wanted {
                self.last_turns = Some(LAST_TURNS);
            }
        }
    }

    /// The server waits for the next thing to do.
    fn time_passes(&mut self) {
        let now = self.server.now();
        let deadline = self
            .server
            .keeper
            .as_ref()
            .and_then(|keeper| keeper.deadline());
        let deadline = deadline.map_or(u64::MAX, Moment::as_nanos);
        let packet = match self.last_turns {
            None => {
                let next = self.agents.iter().map(|agent| agent.next_at).min();
                next.unwrap_or(u64::MAX) + self.dice.below_u64(self.plan.tempo)
            }
            Some(_) => now + 50 * MS,
        };
        let mut then = packet.min(deadline).min(now + DAY).max(now + 1000);
        if self.last_turns.is_none() && self.odds(self.plan.odds.standstills) {
            let length = *self.dice.pick(&[2 * SECOND, MINUTE, 2 * HOUR]);
            then += length;
            self.saw(Event::Standstill, || {
                format!("stands still for {length} ns")
            });
        }
        let least = self.plan.offline_after.unwrap_or(10 * SECOND);
        // The process or the writer is late: for as long again, no agent is judged.
        let late = match then.saturating_sub(deadline.max(now)) {
            0 => 0,
            _ => then - now,
        };
        let waited = self.stalled_since.map_or(0, |since| then - since);
        let lost = late.max(waited);
        if lost >= 900 * MS {
            self.amnesty = self.amnesty.max(then + lost.max(least) + SECOND);
        }
        let passed = Duration::from_nanos(then - now);
        self.server.clock.advance(passed);
        if self.full > 0 {
            // The pause may be lost with the transaction that writes it down.
            let now = self.server.now();
            self.jumped_at = self.jumped_at.filter(|at| now - at >= MINUTE);
        }
        if self.jumped_at.is_some() {
            return;
        }
        let wall = self.server.wall();
        while self.walls.last().is_some_and(|(_, last)| *last <= wall) {
            self.walls.pop();
        }
        self.walls.push((self.server.ledger.next, wall));
    }

    /// An agent does what it does.
    fn act(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        let (now, kind) = (self.server.now(), agent.kind);
        let members = match kind {
            Kind::Nat { members, .. } => members,
            Kind::Clone { .. } => 2,
            _ => 1,
        };
        while agent.links.len() < members {
            let host = match kind {
                Kind::Clone { .. } => agent.links.len() as u8 + 1,
                _ => 1,
            };
            let peer = peer(index, host, &mut agent.next_port);
            agent.links.push(Link::new(peer));
        }
        if !matches!(kind, Kind::Nat { together: true, .. }) && self.dice.one_in(20) {
            let place = self.dice.below(members);
            let agent = &mut self.agents[index];
            self.server.close(&mut agent.links[place]);
            let host = match kind {
                Kind::Clone { .. } => place as u8 + 1,
                Kind::Roamer { .. } => 1 + self.dice.below(200) as u8,
                _ => 1,
            };
            agent.links[place] = Link::new(peer(index, host, &mut agent.next_port));
            self.saw(Event::Reconnect, || format!("agent {index} connects anew"));
        }
        let mut heard = Sent::Heard;
        match kind {
            Kind::Nat { together: true, .. } => {
                for place in 0..members {
                    heard = self.says(index, place, What::Heartbeat);
                }
                if self.dice.one_in(3) {
                    self.says(index, 0, What::Report);
                }
            }
            Kind::Once | Kind::Reporter { .. } => heard = self.says(index, 0, What::Report),
            Kind::Probe => {
                heard = self.says(index, 0, What::Probe);
            }
            Kind::Flood { most } => {
                for _ in 0..self.dice.between(1, most) {
                    self.invents(index);
                }
            }
            _ => {
                let place = self.dice.below(members);
                let queued = std::mem::take(&mut self.agents[index].queued);
                if queued > 0 {
                    self.saw(Event::Burst, || {
                        format!("agent {index}: {queued} more at once")
                    });
                }
                for _ in 0..=queued {
                    heard = self.says(index, place, What::Heartbeat);
                }
                if self.dice.one_in(2) {
                    self.says(index, place, What::Report);
                }
            }
        }
        let agent = &mut self.agents[index];
        if heard == Sent::Paused {
            agent.next_at = now + 20 * MS;
            return;
        }
        let (pause, is_long) = agent.pause(&mut self.dice);
        agent.next_at = now + pause;
        if is_long {
            agent.rhythm = 0;
        }
        if matches!(kind, Kind::Once | Kind::Probe) {
            let link = &mut agent.links[0];
            self.server.close(link);
            agent.links.clear();
        }
    }

    fn says(&mut self, index: usize, place: usize, what: What) -> Sent {
        let now = self.server.now();
        let agent = &mut self.agents[index];
        let (name, owner) = (agent.name.clone(), agent.owner());
        let link = &mut agent.links[place];
        let sent = self.server.take(link, name.as_deref(), &owner, what);
        if sent == Sent::Heard && what != What::Probe {
            let hour = self.server.wall() / HOUR as i64;
            agent.hours += u32::from(hour != agent.last_hour);
            (agent.heard_at, agent.last_hour) = (Some(now), hour);
            // While the roster stands still, it learns no interval.
            let is_counted = what == What::Heartbeat && self.stalled_since.is_none();
            agent.rhythm += u32::from(is_counted);
        }
        if what == What::Probe {
            self.server.ledger.probes.insert(owner.clone());
        }
        let event = match (sent, what) {
            (Sent::NoPlace, _) => Event::NoPlace,
            (_, What::Heartbeat) => Event::Heartbeat,
            (_, What::Report) => Event::Report,
            (_, What::Probe) => Event::Probe,
        };
        let number = self.server.ledger.next;
        self.saw(event, || format!("{owner} {what:?} {sent:?} {number}"));
        sent
    }

    fn invents(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        agent.invented += 1;
        let name = format!("invented-{index}-{}", agent.invented);
        let what = match self.dice.one_in(2) {
            true => What::Heartbeat,
            false => What::Report,
        };
        let sent = self
            .server
            .take(&mut agent.links[0], Some(&name), &name, what);
        let event = match sent {
            Sent::NoPlace => Event::NoPlace,
            _ => Event::InventedName,
        };
        self.saw(event, || format!("{name} {what:?} {sent:?}"));
    }

    /// Something beside packets.
    fn something_happens(&mut self) {
        let odds = self.plan.odds;
        if self.odds(odds.steps) {
            let steps = [SECOND, MINUTE, 2 * HOUR, 40 * DAY, 400 * DAY];
            let step = *self.dice.pick(&steps);
            let step = Duration::from_nanos(step);
            let (now, wall) = (self.server.clock.now(), self.server.clock.wall());
            let (event, wall) = match self.dice.one_in(2) {
                true => (Event::ClockSetForward, wall.after(step)),
                false => (Event::ClockSetBack, wall.before(step)),
            };
            // Not before the first start.
            let wall = wall.max(UnixNanos::from_nanos(1_700_000_000_000_000_000));
            self.server.clock.set(now, wall);
            // A writer that commits nothing compares the clock only afterwards: with a step back
            // before this one it may see no jump.
            let is_checked = self.slow == 0 && self.full == 0;
            self.jumped_at = match event {
                Event::ClockSetForward if step > JUMP && is_checked => {
                    self.jumped_at.or(Some(now.as_nanos()))
                }
                Event::ClockSetForward => self.jumped_at,
                _ => None,
            };
            self.saw(event, || format!("by {step:?}, to {wall}"));
        }
        if self.odds(odds.stalls) {
            self.slow = self.dice.below(30) as u32;
            let turns = self.slow;
            self.saw(Event::SlowWriter, || format!("for {turns} turns"));
        }
        if self.odds(odds.readers) {
            self.reading = self.dice.below(60) as u32;
            self.server.files.read_long(true);
            self.saw(Event::LongReader, String::new);
        } else if self.reading > 0 {
            self.reading -= 1;
            if self.reading == 0 {
                self.server.files.read_long(false);
            }
        }
        if self.odds(odds.full) {
            self.full = self.dice.below(20) as u32 + 1;
            let turns = self.full;
            self.saw(Event::DiskFull, || format!("for {turns} turns"));
        } else {
            self.full = self.full.saturating_sub(1);
        }
        if self.odds(odds.replaced) {
            self.replace();
        }
        if self.odds(odds.follows)
            && let Err(wrong) = self.server.files.follow()
        {
            self.breaks(&wrong);
        }
        if self.odds(odds.restarts) {
            self.end = Some(match self.dice.one_in(2) {
                true => End::Killed,
                false => End::Stopped,
            });
            let event = match self.end {
                Some(End::Killed) => Event::Kill,
                _ => Event::Stop,
            };
            self.saw(event, String::new);
        }
    }

    fn replace(&mut self) {
        self.reading = 0;
        // Another file says itself whether expiry is paused.
        self.jumped_at = None;
        match self.dice.below(5) {
            0 => {
                if self.server.files.rename() {
                    self.saw(Event::Renamed, String::new);
                }
            }
            1 => {
                let all = self.dice.one_in(2);
                self.server.files.remove(all);
                self.saw(Event::Removed, || format!("with its log: {all}"));
            }
            2 | 3 => {
                self.server.files.back_up();
                self.saw(Event::BackedUp, String::new);
            }
            _ => {
                if let Some(numbers) = self.server.files.restore() {
                    let live = self.server.files.live();
                    for report in &mut self.server.ledger.kept {
                        if numbers.contains(&report.number) {
                            report.files = (live, live);
                        }
                    }
                    self.saw(Event::Restored, String::new);
                }
            }
        }
    }

    /// Nothing goes wrong any more, and everything comes to rest.
    fn come_to_an_end(&mut self, left: u32) {
        (self.full, self.slow) = (0, 0);
        self.server.files.read_long(false);
        let has_room = left > LAST_TURNS / 2;
        if has_room && self.server.ledger.pending.is_empty() {
            // One more report shows that reports are taken.
            let mut link = Link::new(([10, 255, 0, 1], left as u16).into());
            self.server
                .take(&mut link, Some("last"), "last", What::Report);
            self.server.close(&mut link);
        }
        self.last_turns = Some(left - 1);
        if left == 1 {
            let noticed = !self.server.files.unnoticed && self.server.ledger.pending.is_empty();
            if !noticed {
                self.breaks("with nothing wrong any more, the store takes no reports");
            }
            self.end = Some(End::Stopped);
        }
    }

    /// Checks the state of each agent.
    fn judge(&mut self) {
        if self.dice.one_in(16) && self.server.known() > self.plan.capacity {
            let (known, capacity) = (self.server.known(), self.plan.capacity);
            self.breaks(&format!("{known} agents are known, {capacity} may be"));
        }
        let now = self.server.now();
        let Some(keeper) = &self.server.keeper else {
            return;
        };
        let floods = matches!(self.plan.kinds.last(), Some(Kind::Flood { .. }));
        let mut wrong = None;
        for agent in &self.agents {
            let entry = keeper.agent(agent.identity());
            if matches!(agent.kind, Kind::Probe) && entry.is_some() {
                wrong = Some((
                    agent.owner(),
                    "only asked for the server's health, and is listed",
                ));
            }
            let Some(heard_at) = agent.heard_at else {
                continue;
            };
            if matches!(agent.kind, Kind::Once | Kind::Flood { .. } | Kind::Probe) {
                continue;
            }
            let silence = now - heard_at;
            let within = silence < self.plan.offline_after.unwrap_or_else(|| agent.within());
            let most = self
                .plan
                .offline_after
                .unwrap_or_else(|| match self.plan.is_calm() {
                    true => agent.beyond(),
                    false => HOUR,
                });
            let most = most + TICK;
            let beyond = silence > most && now > self.amnesty + TICK;
            let found = match entry {
                // Only regular reports are judged.
                Some(entry) if matches!(agent.kind, Kind::Reporter { .. }) && !entry.watched => {
                    continue;
                }
                Some(entry) if within && !entry.online => "was heard within its limit, is offline",
                Some(entry) if beyond && entry.online => "is silent beyond its limit, is online",
                None if within && (!floods || agent.is_established()) => {
                    "was heard within its limit, is forgotten"
                }
                _ => continue,
            };
            wrong = Some((agent.owner(), found));
        }
        if let Some((owner, what)) = wrong {
            let (now, amnesty) = (now, self.amnesty);
            self.breaks(&format!(
                "agent {owner} {what} at {now}, amnesty until {amnesty}"
            ));
        }
    }

    /// Is all there that was acknowledged, in its order, and under the right name?
    fn audit(&mut self) {
        let files = self.server.files.fates.clone();
        let mut present = Vec::new();
        for (file, fate) in files.iter().enumerate() {
            let path = match fate {
                Fate::Live => self.server.files.store(),
                Fate::Renamed(path) => path.clone(),
                Fate::Gone => {
                    present.push(None);
                    continue;
                }
            };
            if *fate == Fate::Live && self.server.files.unnoticed && !path.exists() {
                present.push(Some(Vec::new()));
                continue;
            }
            match self.server.files.rows(&path) {
                Ok(rows) => {
                    self.check_rows(file, &rows);
                    if *fate == Fate::Live && !rows.is_empty() {
                        let time = rows[self.dice.below(rows.len())].time;
                        if let Err(wrong) = self.server.files.commands_agree(&rows, time) {
                            return self.breaks(&wrong);
                        }
                    }
                    let row =
                        |row: &files::Row| Some((files::number(&row.content)?, row.content.len()));
                    let mut numbers: Vec<_> = rows.iter().filter_map(row).collect();
                    numbers.sort_unstable();
                    present.push(Some(numbers));
                }
                // The server was killed before the new file had its tables.
                Err(error) if error.to_string().contains("no such table") => {
                    present.push(Some(Vec::new()));
                    continue;
                }
                Err(error) => return self.breaks(&format!("file {file} cannot be read: {error}")),
            }
            if *fate == Fate::Live {
                match self.server.files.states(&path) {
                    Ok(states) => self.check_states(&states),
                    Err(error) => {
                        return self.breaks(&format!("file {file} cannot be read: {error}"));
                    }
                }
            }
        }
        let last_old = self.last_old();
        let (mut by_age, mut by_size, mut lost) = (0, 0, None);
        self.server.ledger.kept.retain(|report| {
            let (first, last) = report.files;
            let candidates = &present[first..=last];
            if candidates.iter().any(Option::is_none) {
                return false;
            }
            let has = |numbers: &Vec<(u64, usize)>| {
                let found = numbers.binary_search_by_key(&report.number, |(number, _)| *number);
                found.is_ok()
            };
            if candidates.iter().flatten().any(has) {
                return true;
            }
            // An old report takes those that arrived before it with it, whatever their times.
            if report.number <= last_old {
                by_age += 1;
                return false;
            }
            let pushed_out = candidates.iter().flatten().any(|numbers| {
                let sum: usize = numbers.iter().map(|(_, bytes)| bytes + 40).sum();
                let oldest_first = numbers
                    .first()
                    .is_none_or(|(first, _)| *first > report.number);
                oldest_first && sum as u64 > self.plan.size / 2
            });
            if pushed_out {
                by_size += 1;
                return false;
            }
            lost = lost.or(Some(report.number));
            false
        });
        self.counts.observe(Event::ExpiredByAge, by_age);
        self.counts.observe(Event::ExpiredBySize, by_size);
        let reports = &mut self.server.reports;
        for (event, count) in [
            (Event::Acknowledged, &mut reports.kept),
            (Event::Refused, &mut reports.refused),
            (Event::Discarded, &mut reports.discarded),
        ] {
            self.counts.observe(event, std::mem::take(count));
        }
        if let Some(number) = lost {
            self.breaks(&format!("report {number} was acknowledged, and is lost"));
        }
    }

    /// The number of the last report that has been older than `--retain`.
    fn last_old(&self) -> u64 {
        let oldest = i64::try_from(self.plan.age.as_nanos()).unwrap();
        let arrivals = self.server.ledger.arrivals.iter().enumerate();
        let is_old = |(index, wall): &(usize, &i64)| {
            let place = self
                .walls
                .partition_point(|(number, _)| *number <= *index as u64);
            let latest = self.walls.get(place).map_or(i64::MIN, |(_, wall)| *wall);
            latest.saturating_sub(**wall) > oldest
        };
        arrivals
            .rev()
            .find(is_old)
            .map_or(0, |(index, _)| index as u64 + 1)
    }

    fn check_rows(&mut self, file: usize, rows: &[files::Row]) {
        let mut before = 0;
        let mut last_of = std::collections::HashMap::new();
        for row in rows {
            let owner = row.content.split('|').next().unwrap_or_default();
            let number = files::number(&row.content).unwrap_or(0);
            let place = self.places.entry((file, row.seq)).or_insert(number);
            if *place != number {
                let before = *place;
                return self.breaks(&format!(
                    "file {file}: reports {before} and {number} have one number, {}",
                    row.seq
                ));
            }
            if let Some(found) = &row.owner
                && found != owner
            {
                return self.breaks(&format!(
                    "file {file}: report {number} of {owner} is under the name of {found}"
                ));
            }
            if number <= before {
                return self.breaks(&format!(
                    "file {file}: report {number} stands behind {before}, which came later"
                ));
            }
            before = number;
            let previous: Option<i64> = last_of.insert(row.agent, row.seq);
            if let (Some(pointer), Some(previous)) = (row.previous, previous)
                && pointer != previous
            {
                return self.breaks(&format!(
                    "file {file}: row {} points to {pointer}, and the one before is {previous}",
                    row.seq
                ));
            }
        }
    }

    fn check_states(&mut self, states: &[files::State]) {
        let is_first_file = self.server.files.live() == 0;
        for state in states {
            let files::State { owner, online, .. } = state;
            let lacks = is_first_file
                && state.last_event.is_none()
                && state.watched
                && self.plan.keeps_events();
            if lacks || state.last_event.is_some_and(|last| last != *online) {
                let path = self.server.files.store();
                let story = self.server.files.story(&path, owner).unwrap_or_default();
                return self.breaks(&format!(
                    "the last event of {owner} is not its state\n{story}"
                ));
            }
            if self.server.ledger.probes.contains(owner) {
                return self.breaks(&format!("{owner} only asked for health, and has a row"));
            }
        }
        if is_first_file && self.plan.odds.steps == 0 && states.len() > self.plan.capacity {
            let (rows, capacity) = (states.len(), self.plan.capacity);
            return self.breaks(&format!(
                "{rows} agents have a row, {capacity} may be known"
            ));
        }
        let Some(expected) = self.states.take() else {
            return;
        };
        for (owner, online) in expected.agents {
            let found = states.iter().find(|state| state.owner == owner);
            // The row of an agent that was silent for long may have expired.
            if found.map_or(online, |state| state.online != online) {
                let found = found.map(|state| state.online);
                return self.breaks(&format!(
                    "{owner} was online={online} at the stop, its row says {found:?}"
                ));
            }
        }
        let (online, rows) = (expected.online, states.iter());
        let found = rows.filter(|state| state.online).count();
        if is_first_file && found != online {
            self.breaks(&format!(
                "{online} agents were online at the stop, {found} rows are"
            ));
        }
    }

    fn odds(&mut self, times: u64) -> bool {
        times > 0 && self.dice.one_in(times)
    }

    fn saw(&mut self, event: Event, more: impl FnOnce() -> String) {
        self.counts.saw(event);
        if TRACE.with(|trace| *trace) {
            let more = more();
            self.note(&format!("{event:?} {more}"));
        }
    }

    fn note(&mut self, what: &str) {
        if TRACE.with(|trace| *trace) {
            let (now, wall) = (self.server.now(), self.server.clock.wall());
            self.last.push(format!("{now} {wall} {what}"));
            if self.last.len() > 200 {
                self.last.remove(0);
            }
        }
    }

    #[cold]
    fn breaks(&mut self, what: &str) {
        self.broken.get_or_insert_with(|| what.to_owned());
    }
}

thread_local! {
    /// Whether what happens is to be told, should anything break: it costs as much as all
    /// the rest.
    static TRACE: bool = std::env::var_os("HAWK_SIM_SEED").is_some();
}

fn peer(index: usize, host: u8, port: &mut u16) -> std::net::SocketAddr {
    *port = port.wrapping_add(1).max(1);
    ([10, 0, index as u8, host], *port).into()
}
