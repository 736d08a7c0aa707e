//! Where another process takes the configuration that this one holds: for a process that was replaced.
//!
//! The other one writes to files with numbers of its own, behind those of this one. Changes are taken in their order for as
//! long as they lead on from what is held; where none does, the newest checkpoint is taken.
//!
//! Invariant: it reads, and never writes; it holds no lock on the directory, and no file open between two looks.

use super::directory::{self, Listing};
use super::file::{Kind, Place, ReadError, StateKey};
use super::generation::{self, Head, Origin, Read, content};
use crate::node::holdings::Holdings;
use milecastle_settings::State;
use milecastle_snapshot::Compiler;
use milecastle_wire::decode_delta;
use std::fmt::Display;
use std::io;
use std::path::Path;

/// What is held, and which of the files led there.
pub(in crate::node) struct Trail {
    settings: State,
    origin: Origin,
    held: Holdings,
    /// Number of the last file that led here, or was given up. Files before it are not looked at.
    passed: u64,
    /// How far that file was read, if it is one of changes.
    place: Option<Place>,
}

/// What a look has brought.
pub(in crate::node) struct Look {
    /// What is held now, if that is new.
    pub(in crate::node) news: Option<Holdings>,
    /// Why it may not be all that the other process has in force.
    pub(in crate::node) fault: Option<String>,
}

impl Trail {
    /// From `held` on, which is on the disk in files up to the number `passed`.
    pub(super) fn new(settings: State, origin: Origin, held: Holdings, passed: u64) -> Self {
        Self { settings, origin, held, passed, place: None }
    }

    /// Goes on from the same configuration in the forms that it has in force.
    pub(in crate::node) fn renew(&mut self, held: Holdings) {
        self.held = held;
    }

    /// Takes what was written since the last look. Blocks.
    pub(in crate::node) fn look(&mut self, compiler: &Compiler) -> Look {
        let before = self.held.position().clone();
        let fault = self.advance(compiler).err();
        Look { news: (*self.held.position() != before).then(|| self.held.clone()), fault }
    }

    fn advance(&mut self, compiler: &Compiler) -> Result<(), String> {
        let dir = self.settings.dir();
        let listing = directory::list(dir).map_err(|error| at(dir, &error))?;
        if !self.has_more(&listing) {
            return Ok(());
        }
        let key = StateKey::read(&self.settings).map_err(|error| error.to_string())?;
        let key = key.ok_or_else(|| format!("there is no state key at {}", self.settings.key_path().display()))?;
        let taken = self.take_changes(&listing, &key, compiler);
        match listing.checkpoints.last_key_value() {
            // It leads past whatever is wrong with the changes before it.
            Some((&number, path)) if number > self.passed => {
                self.take_checkpoint(path, number, &key, compiler)?;
                self.take_changes(&listing, &key, compiler)
            }
            _ => taken,
        }
    }

    /// Whether anything was written behind what was read.
    fn has_more(&self, listing: &Listing) -> bool {
        let grown = |place: Place| {
            let bytes = listing.changes.get(&self.passed).and_then(|path| path.metadata().ok()).map(|file| file.len());
            bytes.is_some_and(|bytes| bytes > place.offset())
        };
        listing.last().is_some_and(|last| last > self.passed) || self.place.is_some_and(grown)
    }

    /// Takes all changes that lead on from what is held. Gives the first thing that was wrong with any file.
    fn take_changes(&mut self, listing: &Listing, key: &StateKey, compiler: &Compiler) -> Result<(), String> {
        let mut outcome = Ok(());
        for (&number, path) in listing.changes.range(self.passed..) {
            if number > self.passed || self.place.is_some() {
                let taken = self.take_file(path, number, key, compiler);
                outcome = outcome.and(unless_unfinished(taken).map_err(|error| at(path, &error)));
            }
        }
        outcome
    }

    /// Takes the changes in a file, if it goes on from what is held.
    fn take_file(&mut self, path: &Path, number: u64, key: &StateKey, compiler: &Compiler) -> Result<(), ReadError> {
        let mut reader = generation::open(path, key, Kind::Changes, number)?;
        match self.place.filter(|_| number == self.passed) {
            Some(place) => reader.go_to(place)?,
            None => {
                let (origin, from, _) = Head::read(&mut reader)?;
                if origin != self.origin || from != *self.held.position() {
                    return Ok(());
                }
                (self.passed, self.place) = (number, Some(reader.place()));
            }
        }
        while let Some(record) = reader.next()? {
            let delta = decode_delta(&record).map_err(content)?;
            self.held = self.held.after(compiler, &delta).map_err(|refusal| content(refusal.detail))?;
            self.place = Some(reader.place());
        }
        Ok(())
    }

    /// Takes a checkpoint, unless what is held is the same. One that is of no use is not read a second time: the next one may be.
    fn take_checkpoint(&mut self, path: &Path, number: u64, key: &StateKey, compiler: &Compiler) -> Result<(), String> {
        let head = generation::open(path, key, Kind::Checkpoint, number).and_then(|mut reader| Head::read(&mut reader));
        let head = match head {
            // It may have been tidied away since, or the process has no descriptors left: the next look finds it or a newer one.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(ReadError::Io(error)) => return Err(at(path, &error)),
            head => head,
        };
        let before = (self.passed, self.place);
        (self.passed, self.place) = (number, None);
        let (origin, position, _) = head.map_err(|error| at(path, &error))?;
        if origin == self.origin && position == *self.held.position() {
            return Ok(());
        }
        let read = match Read::checkpoint(path, number, key) {
            Err(ReadError::Io(error)) => {
                (self.passed, self.place) = before;
                return if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(at(path, &error)) };
            }
            read => read.map_err(|error| at(path, &error))?,
        };
        self.held = read.build(compiler, Some(&self.held)).map_err(|refusal| at(path, &refusal.detail))?;
        self.origin = origin;
        Ok(())
    }
}

/// No fault, where the other process has not finished writing, or has removed the file since it was listed.
fn unless_unfinished(taken: Result<(), ReadError>) -> Result<(), ReadError> {
    match taken {
        Err(ReadError::Torn) => Ok(()),
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        taken => taken,
    }
}

fn at(path: &Path, why: &dyn Display) -> String {
    format!("{}: {why}", path.display())
}
