"""Every image-to-expression model: the contract, and how it is passed on."""

from __future__ import annotations

from stpredict.models._base.card import model_card
from stpredict.models._base.contract import Contract
from stpredict.models._base.hub import check_repository, send


class ExpressionModel(Contract):
    """An image-to-expression model.

    A model is trained on sections that carry features (`pp.encode`) and counts, and predicts from features alone.
    Everything it needs to do so again is in ``arrays`` (name → array) and ``config`` (JSON), which is what
    `save` writes and `stpredict.models.load` reads; nothing is ever unpickled.

    Attributes
    ----------
    trust
        What was learned about the accuracy of predictions.
    method
        Name under which `tl.train` knows the class.
    seeded
        Whether training is random, so that it takes a seed, a preset, options and checkpoints.
    streams
        Whether `fit` takes sections that stay on disk.
    compares_spots
        Whether what is predicted for a spot depends on which others of its section are there.
    units
        Units of what it predicts.
    known_spots
        Which spots ``trust`` was learned from.
    genes
        Genes that the model predicts.
    arrays
        What was learned: name → array.
    config
        Everything but arrays: genes, feature keys, encoder record, hyper-parameters, package version.
    """

    def push_to_hub(
        self,
        repository: str,
        *,
        licence: str,
        tissue: str | None = None,
        cite: str | None = None,
        has_permission: bool = False,
        private: bool = True,
        share_bank: bool = True,
    ) -> str:
        """Pass the model on by the Hugging Face hub, with a card of what it was trained on and how far it can be believed.

        What `save` writes goes into the repository, and a card, ``README.md``, in place of one that is there. All of it
        becomes readable for those who see the repository: ``model.json`` names the sections and patients of training,
        and models with reference spots hold the expression of these. So the repository is private at first; read the
        card there before you open it to others.

        Parameters
        ----------
        repository
            ``"<laboratory>/<name>"``; it is made where there is none. Log in first: ``hf auth login``.
        licence
            Under which others may use the model, as the hub names licences: ``"cc-by-4.0"``, ``"apache-2.0"``,
            ``"other"``.
        tissue
            What the sections show, such as ``"human breast cancer"``.
        cite
            What users of the model are to cite.
        has_permission
            Say that the holder of the encoder's rights permits to pass the model on. Needed where the licence of its
            weights forbids derivatives, as far as `stpredict` knows it.
        private
            Whether a new repository is seen by its laboratory only.
        share_bank
            Whether the expression of single training spots goes along, where the method predicts from it. Without it
            ``"cmrcnet"``, ``"st_align"`` and ``"consensus"`` predict by their decoders; the card says what that costs.
            ``"knn"`` and ``"mixture"`` cannot do without.

        Returns
        -------
        ``"hf-hub:<laboratory>/<name>@<commit>"``, which `stpredict.models.load` reads.

        Raises
        ------
        ValueError
            If the model was not trained, the name is none, the encoder's licence forbids derivatives, or the method cannot
            do without what ``share_bank=False`` keeps back; before anything is sent.
        OSError
            If the hub cannot be reached, or refuses.

        Examples
        --------
        >>> import stpredict as st
        >>> model = st.tl.train(st.datasets.simulate(), method="mean")
        >>> where = model.push_to_hub("lab/breast", licence="cc-by-4.0", tissue="breast")  # doctest: +SKIP
        >>> st.models.load(where).method  # doctest: +SKIP
        'mean'
        """
        if not self.arrays:
            msg = "This model was not trained, so there is nothing to pass on; stpredict.tl.train or stpredict.tl.adapt makes one."
            raise ValueError(msg)
        check_repository(repository)
        model = self if share_bank else self.without_bank()
        card = model_card(model, repository, licence=licence, tissue=tissue, cite=cite, has_permission=has_permission)
        return send(model.save, card, repository, private=private)
