"""§5.2 and §5.2.1 in plain Python, written from the specification: what the log has to answer, request by request."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.log.appends import Appended
from gateway.protocol import errors
from gateway.protocol.append import AppendRequest

Outcome = Appended | type[errors.ProtocolError]


@dataclass
class ModelStream:
    """A stream as a list of events, and what its writers have said."""

    media_type: str
    events: list[bytes] = field(default_factory=list)
    closed: bool = False
    closed_by: tuple[str, int, int] | None = None
    stream_seq: bytes | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def append(self, request: AppendRequest) -> Outcome:
        """Applies a request, or says how it is refused."""
        producer = request.producer
        claim = None if producer is None else (producer.id, producer.epoch, producer.seq)
        if self.closed:
            if request.close and not request.events and claim is None:
                return Appended(len(self.events), True, True, *(self.closed_by or (None,) * 3)[1:])
            if claim is not None and claim == self.closed_by:
                return Appended(len(self.events), True, True, *claim[1:])
            return errors.StreamClosed
        if request.events and request.media_type != self.media_type:
            return errors.ContentTypeMismatch
        if producer is not None:
            epoch, seq = self.producers.get(producer.id, (None, None))
            if epoch is None or seq is None:
                if producer.seq > 0:
                    return errors.ProducerSequenceGap
            elif producer.epoch < epoch:
                return errors.StaleEpoch
            elif producer.epoch > epoch:
                if producer.seq != 0:
                    return errors.NewEpochMustStartAtZero
            elif producer.seq <= seq:
                return Appended(len(self.events), True, False, epoch, seq)
            elif producer.seq > seq + 1:
                return errors.ProducerSequenceGap
        if request.stream_seq is not None:
            if self.stream_seq is not None and request.stream_seq.encode() <= self.stream_seq:
                return errors.StreamSeqConflict
            self.stream_seq = request.stream_seq.encode()
        if producer is not None:
            self.producers[producer.id] = (producer.epoch, producer.seq)
        self.events += request.events
        if request.close:
            self.closed, self.closed_by = True, claim
        return Appended(len(self.events), False, self.closed, *(claim or (None,) * 3)[1:])
