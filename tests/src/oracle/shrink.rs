//! Making a disagreement small: everything that can go while the program and the oracle still disagree goes.

use anyhow::Result;

use super::{
    check::{Complaint, alone},
    grammar::Case,
    kernel::Kernel,
    tables::Tables,
};

/// The smallest tables and frame found that still give a complaint about a frame of the same reason, and that complaint.
/// `None` if the frame gives none by itself.
pub fn shrink(
    kernel: &mut Kernel,
    tables: &Tables,
    case: &Case,
) -> Result<Option<(Tables, Case, Complaint)>> {
    let Some(complaint) = alone(kernel, tables, case)? else { return Ok(None) };
    let mut found = Found { kernel, tables: tables.clone(), case: case.clone(), complaint };
    loop {
        // Both passes run: `|` and not `||`.
        if !(found.fewer_entries()? | found.fewer_bytes()?) {
            return Ok(Some((found.tables, found.case, found.complaint)));
        }
    }
}

struct Found<'a> {
    kernel: &'a mut Kernel,
    tables: Tables,
    case: Case,
    complaint: Complaint,
}

impl Found<'_> {
    /// Takes a change if there is still a complaint about a frame of the same reason.
    fn attempt(&mut self, tables: Option<Tables>, case: Option<Case>) -> Result<bool> {
        let new_tables = tables.as_ref().unwrap_or(&self.tables);
        let new_case = case.as_ref().unwrap_or(&self.case);
        if !new_tables.is_possible() {
            return Ok(false);
        }
        match alone(self.kernel, new_tables, new_case)? {
            Some(complaint) if complaint.reason == self.complaint.reason => {
                self.complaint = complaint;
                self.tables = tables.unwrap_or_else(|| self.tables.clone());
                self.case = case.unwrap_or_else(|| self.case.clone());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn fewer_entries(&mut self) -> Result<bool> {
        let mut smaller = false;
        if self.tables.ring_full {
            smaller |= self.attempt(Some(Tables { ring_full: false, ..self.tables.clone() }), None)?;
        }
        if self.tables.ring_half_full {
            smaller |= self.attempt(Some(Tables { ring_half_full: false, ..self.tables.clone() }), None)?;
        }
        if self.case.metadata > 0 {
            smaller |= self.attempt(None, Some(Case { metadata: 0, ..self.case.clone() }))?;
        }
        macro_rules! without_each {
            ($map:ident, $keys:expr) => {
                for key in $keys {
                    let mut tables = self.tables.clone();
                    tables.$map.remove(&key);
                    smaller |= self.attempt(Some(tables), None)?;
                }
            };
        }
        without_each!(sessions, self.tables.sessions.keys().copied().collect::<Vec<_>>());
        without_each!(channels, self.tables.channels.iter().copied().collect::<Vec<_>>());
        without_each!(pending, self.tables.pending.keys().copied().collect::<Vec<_>>());
        without_each!(endpoints, self.tables.endpoints.iter().copied().collect::<Vec<_>>());
        without_each!(used_up, self.tables.used_up.iter().copied().collect::<Vec<_>>());
        without_each!(prefixes, self.tables.prefixes.iter().copied().collect::<Vec<_>>());
        without_each!(rates, self.tables.rates.keys().copied().collect::<Vec<_>>());
        without_each!(next_hops, self.tables.next_hops.keys().copied().collect::<Vec<_>>());
        without_each!(tx_ports, self.tables.tx_ports.iter().copied().collect::<Vec<_>>());
        without_each!(locals, self.tables.locals.keys().copied().collect::<Vec<_>>());
        Ok(smaller)
    }

    fn fewer_bytes(&mut self) -> Result<bool> {
        let mut smaller = false;
        let mut size = self.case.frame.len() / 2;
        while size > 0 {
            // Parts that go, from the end; then parts that become zero.
            let mut end = self.case.frame.len();
            while end >= size && self.case.frame.len() - size >= 14 {
                let mut case = self.case.clone();
                case.frame.drain(end - size..end);
                smaller |= self.attempt(None, Some(case))?;
                end = (end - size).min(self.case.frame.len());
            }
            for start in (0..self.case.frame.len()).step_by(size) {
                let mut case = self.case.clone();
                let end = (start + size).min(case.frame.len());
                if case.frame[start..end].iter().any(|&byte| byte != 0) {
                    case.frame[start..end].fill(0);
                    smaller |= self.attempt(None, Some(case))?;
                }
            }
            size /= 2;
        }
        Ok(smaller)
    }
}
